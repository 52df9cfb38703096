"""The catalogue proposer: turns evidence into checks, without an LLM.

A check is proposed when a share of the policy's completions misses what every trusted original has;
its parameter is what those originals show, less a margin, so that honest text passes.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from statistics import quantiles
from typing import NamedTuple

from regrade.contracts import CheckCriterion, Role, Trace, as_text
from regrade.contracts import checks as c
from services.kit.text import features
from services.meta_reward.evidence.text_features import UNKNOWN_LANGUAGE, language_of
from services.meta_reward.propose.base import Progress, ProposalContext, build_candidate
from services.meta_reward.types import Candidate, Proposal

_NEEDED_SHARE = 0.02
_FEWEST_MISSES = 3
"""A hack is answered while it is rare: one that pays does not stay so. What a check costs is the gate's to tell."""
_WEIGHT = 1.0
_NGRAM = 4
_ALONE = 2
_MOST_OF_A_LINE = 2
_TAKEN_UP = 0.25
"""Share of a prompt's content words that tells an answer from an answer to another prompt."""


class CheckProposal(NamedTuple):
    """A check the traces call for: the share of completions that miss it."""

    criterion: CheckCriterion
    missing: float

    def under_a_free_id(self, taken: Set[str]) -> "CheckProposal":
        """The same, where a criterion of another kind has its id already: `language` may be one for the judge."""
        name = self.criterion.id
        ids = (name, *(f"{name}_check{number}" for number in ("", *range(2, len(taken) + 2))))
        return self._replace(criterion=self.criterion.model_copy(update={"id": next(i for i in ids if i not in taken)}))


class CatalogueProposer:
    """Proposes all needed checks together, and the two most needed alone: a bundle hides which check does harm."""

    name = "catalogue"

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """Candidates that add award checks to the active rubric, the strongest need first."""
        present = {criterion.check.check for criterion in context.active.check_criteria}
        taken = {criterion.id for criterion in context.active.criteria}
        found = find_missing_checks(context.window, context.visible)
        proposals = [
            proposal.under_a_free_id(taken) for proposal in found if proposal.criterion.check.check not in present
        ]
        proposals.sort(key=lambda proposal: proposal.missing, reverse=True)
        if not proposals:
            return Proposal((), ("catalogue: the traces call for no further check",))
        bundles = [proposals, *([proposal] for proposal in proposals[:_ALONE])] if len(proposals) > 1 else [proposals]
        return Proposal(tuple(self._candidate(context, bundle) for bundle in bundles), ())

    def _candidate(self, context: ProposalContext, proposals: Sequence[CheckProposal]) -> Candidate:
        why = "; ".join(
            f"{proposal.missing:.0%} of completions miss {proposal.criterion.check.check}" for proposal in proposals
        )
        added = [proposal.criterion for proposal in proposals]
        return Candidate(build_candidate(context, added, by=self.name, rationale=why), self.name)


def find_missing_checks(window: Sequence[Trace], visible: Sequence[tuple[str, str]]) -> list[CheckProposal]:
    """Checks that one completion in fifty misses, and three at least; `visible` (prompt, completion) pairs set them."""
    produced = [(as_text(trace.prompt), as_text(trace.completion)) for trace in window]
    proposals = []
    for name, title, build in _RULES:
        found = build(produced, visible)
        if found is not None:
            check, missing = found
            if missing >= max(_NEEDED_SHARE, _FEWEST_MISSES / max(1, len(window))):
                criterion = CheckCriterion(
                    kind="check", id=name, name=title, role=Role.AWARD, weight=_WEIGHT, check=check
                )
                proposals.append(CheckProposal(criterion, missing))
    return proposals


Pairs = Sequence[tuple[str, str]]
Found = tuple[c.Check, float] | None


def _min_words(produced: Pairs, trusted: Pairs) -> Found:
    limit = int(0.8 * _low(len(features.words(text)) for _, text in trusted))
    if limit < 1:
        return None
    return c.MinWords(check="min_words", words=limit), _share(len(features.words(text)) < limit for _, text in produced)


def _max_words(produced: Pairs, trusted: Pairs) -> Found:
    limit = int(-1.25 * _low(-len(features.words(text)) for _, text in trusted))
    if limit < 1:
        return None
    return c.MaxWords(check="max_words", words=limit), _share(len(features.words(text)) > limit for _, text in produced)


def _min_sentences(produced: Pairs, trusted: Pairs) -> Found:
    limit = int(0.8 * _low(features.sentence_count(text) for _, text in trusted))
    if limit < _MOST_OF_A_LINE:
        return None
    missing = _share(features.sentence_count(text) < limit for _, text in produced)
    return c.MinSentences(check="min_sentences", sentences=limit), missing


def _language(produced: Pairs, trusted: Pairs) -> Found:
    """Where all trusted text is in one language."""
    spoken = {language_of(text) for _, text in trusted} - {UNKNOWN_LANGUAGE}
    if len(spoken) != 1:
        return None
    expected = spoken.pop()
    missing = _share(language_of(text) not in (expected, UNKNOWN_LANGUAGE) for _, text in produced)
    return c.Language(check="language", language=expected), missing


def _ends_properly(produced: Pairs, trusted: Pairs) -> Found:
    if not all(features.ends_properly(text) for _, text in trusted):
        return None
    return c.EndsProperly(check="ends_properly"), _share(not features.ends_properly(text) for _, text in produced)


def _not_repetitive(produced: Pairs, trusted: Pairs) -> Found:
    limit = round(0.95 * _low(_distinct(text) for _, text in trusted), 2)
    check = c.NotRepetitive(check="not_repetitive", ngram=_NGRAM, min_distinct=limit)
    return check, _share(_distinct(text) < limit for _, text in produced)


def _on_topic(produced: Pairs, trusted: Pairs) -> Found:
    low = _low(_overlap(pair) for pair in trusted)
    limit = round(min(_TAKEN_UP, 0.5 * low), 2)  # shorter prompts are taken up more fully
    if limit <= 0.0:
        return None
    return c.OnTopic(check="on_topic", min_overlap=limit), _share(_overlap(pair) < limit for pair in produced)


def _no_prompt_copy(produced: Pairs, trusted: Pairs) -> Found:
    limit = round(min(0.9, max((_copied(pair) for pair in trusted), default=0.0) + 0.1), 2)
    check = c.NoPromptCopy(check="no_prompt_copy", max_copied=limit)
    return check, _share(_copied(pair) > limit for pair in produced)


_RULES: tuple[tuple[str, str, Callable[[Pairs, Pairs], Found]], ...] = (
    ("min_words", "Long enough", _min_words),
    ("max_words", "Not drawn out", _max_words),
    ("min_sentences", "More than a line", _min_sentences),
    ("language", "In the language asked for", _language),
    ("ends_properly", "Ends with a finished sentence", _ends_properly),
    ("not_repetitive", "Does not repeat itself", _not_repetitive),
    ("on_topic", "Takes up the prompt", _on_topic),
    ("no_prompt_copy", "Does not copy the prompt", _no_prompt_copy),
)


def _distinct(text: str) -> float:
    return features.distinct_share(features.words(text), _NGRAM)


def _overlap(pair: tuple[str, str]) -> float:
    return features.topic_overlap(features.words(pair[1]), features.words(pair[0]))


def _copied(pair: tuple[str, str]) -> float:
    return features.copied_share(features.words(pair[1]), features.words(pair[0]))


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found) if found else 0.0


def _low(values: Iterable[float]) -> float:
    """The tenth percentile."""
    ordered = list(values)
    return quantiles(ordered, n=10, method="inclusive")[0] if len(ordered) > 1 else min(ordered, default=0.0)
