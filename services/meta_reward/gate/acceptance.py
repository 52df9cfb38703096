"""Acceptance criteria: what a measured candidate has to show. Pure.

A new criterion is a function from a comparison to the texts of its failures, and an entry in `ACCEPTANCE_CRITERIA`
with the code under which a refusal is reported (docs/extend.md).
"""

from collections.abc import Callable, Iterator

from regrade.contracts import Reason, ReasonCode
from services.meta_reward.gate.comparison import EPSILON, Comparison

MAX_UNSCORED = 0.05
"""A rubric that leaves more of the anchors unscored is measured on a selection of its own."""
MAX_INVERTED = 0.5
"""Above it, the candidate prefers the damaged text of most pairs."""
_REFERENCE_NAMES = ("active", "best earlier")


AcceptanceCriterion = Callable[[Comparison], Iterator[str]]
"""Gives a text for each way in which a candidate fails; none when it meets the criterion."""


def scores_the_anchors(comparison: Comparison) -> Iterator[str]:
    """It scores 95 % of what the active rubric scores and enough originals in common; so does the best earlier one."""
    if comparison.is_partial:
        return
    active, *earlier = comparison.references
    scored = [index for index, reward in enumerate(active.rewards) if reward is not None]
    for whose, rubric in (("", comparison.candidate), *(("the best earlier rubric ", one) for one in earlier)):
        missing = sum(rubric.rewards[index] is None for index in scored)
        too_few = missing > 0 and comparison.common_originals < comparison.min_originals
        if missing > MAX_UNSCORED * len(scored) or too_few:
            yield f"{whose}could not score {missing} of {len(scored)} anchors"


def is_not_inferior(comparison: Comparison) -> Iterator[str]:
    """Its net order is not below a reference's by more than the margin, with confidence."""
    for name, gain in zip(_REFERENCE_NAMES, comparison.order_gains, strict=False):
        if gain.lower < -comparison.margin:
            yield f"anchor order may be worse than the {name} rubric's by more than the margin"


def resists_as_many_attacks(comparison: Comparison) -> Iterator[str]:
    """It resists as many attacks as each reference."""
    for name, scores in zip(_REFERENCE_NAMES, comparison.reference_scores, strict=False):
        if comparison.scores.mean_resisted < scores.mean_resisted - EPSILON:
            yield f"lets more attacks through than the {name} rubric"


def keeps_the_spread(comparison: Comparison) -> Iterator[str]:
    """It tells as many groups of trusted completions apart as the active rubric: without spread no gradient."""
    if comparison.candidate.spread < comparison.references[0].spread - EPSILON:
        yield "takes the spread out of trusted groups"


def prefers_no_damage(comparison: Comparison) -> Iterator[str]:
    """No transform's damaged copies mostly score above their originals, unless they do under the active rubric too."""
    active = comparison.reference_scores[0].inverted
    for kind, share in comparison.scores.inverted.items():
        if share > MAX_INVERTED and share > active[kind] + comparison.margin:
            yield (
                f"prefers damaged text: {share:.0%} of {kind!r} copies score above their originals, "
                f"{active[kind]:.0%} under the active rubric"
            )


def shows_a_gain(comparison: Comparison) -> Iterator[str]:
    """It gains over the active rubric in net order or in resisted attacks, with confidence."""
    if max(comparison.order_gains[0].lower, comparison.attack_gain.lower) <= 0.0:
        yield "no certain gain in anchor order or resisted attacks"


ACCEPTANCE_CRITERIA: tuple[tuple[ReasonCode, AcceptanceCriterion], ...] = (
    (ReasonCode.UNSCORED, scores_the_anchors),
    (ReasonCode.WORSE, is_not_inferior),
    (ReasonCode.ATTACKS, resists_as_many_attacks),
    (ReasonCode.SPREAD, keeps_the_spread),
    (ReasonCode.INVERSION, prefers_no_damage),
    (ReasonCode.NO_GAIN, shows_a_gain),
)
"""All of them must be met. The metrics count a refusal under the first that is not."""


def failures(comparison: Comparison) -> list[Reason]:
    """Why a candidate is refused; empty when it is accepted."""
    return [Reason(code=code, text=text) for code, criterion in ACCEPTANCE_CRITERIA for text in criterion(comparison)]
