"""Error level of each gate decision, and how many originals it needs. Pure.

Decisions against one active rubric are made on the same anchors, so they share the error level `alpha` (alpha
spending): the k-th gets `alpha / (k (k + 1))`, which sums to `alpha` over all k. Each activation makes a new rubric the
one to beat and opens a new share. Over a lineage, the expected number of false activations is at most `alpha` times one
more than the number of activations: the guarantee of alpha investing (Foster and Stine 2008), without its assumption
of independent decisions, which decisions on shared anchors are not.

Imported anchors are new evidence, but one pair is little of it: a decision counts until there are twice as many
originals as it was made on. With n0 originals at the least and n1 at the most, the decisions against one rubric then
spend at most `alpha * (1 + floor(log2(n1 / n0)))`, in whatever order anchors come and go, because decisions on m to
2m - 1 originals all count for each other. Early completions (`early_originals.py`) never reset the count. A report
without a number of originals (from an earlier release) counts for good.

Within a decision the level is divided by the candidates and by the tests for a gain (Bonferroni). Interim analyses
can only refuse a candidate, so they spend nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil, log2, sqrt
from statistics import NormalDist, pstdev

from regrade.contracts import GateReport, LineageEvent

POWER = 0.8
"""Power of the reported detectable gain; 0.8 is the convention in trial design."""
GAIN_TESTS = 2
"""A gain may show in anchor order or in resisted attacks; each is a test of its own."""
_STEPS_PER_UNIT = 100
"""Differences are shares of a few damaged copies, so hundredths lose nothing and keep the exact test's table small."""
_MAX_EXACT = 64
"""Above so many non-zero differences the normal approximation is accurate, and the exact table slow."""


def decision_alpha(alpha: float, decision: int) -> float:
    """Error level of the `decision`-th decision (from 1) that shares `alpha`."""
    return alpha / (decision * (decision + 1))


def level_per_test(alpha: float, decision: int, candidates: int) -> float:
    """Error level of each test for a gain in that decision, on so many candidates."""
    return decision_alpha(alpha, decision) / (GAIN_TESTS * candidates)


def count_decisions(history: Sequence[LineageEvent], base: str, active: str, originals: int) -> int:
    """How many earlier cycles count as decisions against the rubric `active` (a digest).

    `base` and `originals` are the version and the size of the anchor set without early completions.
    """
    gates = [event.gate for event in history if event.gate is not None and event.gate.active.digest == active]
    return len({gate.cycle for gate in gates if _counts(gate, base, originals)})


def _counts(gate: GateReport, base: str, originals: int) -> bool:
    if (gate.anchors_base or gate.anchors) == base or gate.base_originals == 0:
        return True
    return originals < 2 * gate.base_originals


def min_originals(level: float) -> int:
    """With fewer originals not even a candidate that is better on every one of them shows a gain at this level."""
    return ceil(log2(1.0 / level))


def sign_flip_test(differences: Sequence[float]) -> float:
    """p-value of a one-sided sign-flip permutation test: P(sum at least this large) if signs were random.

    Exact on differences rounded to a hundredth, up to 64 that are not zero; a normal approximation above.
    """
    steps = [rounded for difference in differences if (rounded := round(difference * _STEPS_PER_UNIT)) != 0]
    if len(steps) > _MAX_EXACT:
        return 1.0 - NormalDist().cdf(sum(steps) / sqrt(sum(step * step for step in steps)))
    chances = {0: 1.0}
    for step in steps:
        flipped: defaultdict[int, float] = defaultdict(float)
        for total, chance in chances.items():
            flipped[total + step] += chance / 2.0
            flipped[total - step] += chance / 2.0
        chances = flipped
    return sum(chance for total, chance in chances.items() if total >= sum(steps))


def detectable_gain(differences: Sequence[float], level: float) -> float:
    """Smallest mean gain detected with power 0.8 at this level, if gains vary between originals as `differences` do."""
    normal = NormalDist()
    quantiles = normal.inv_cdf(1.0 - level) + normal.inv_cdf(POWER)
    return quantiles * pstdev(differences) / sqrt(len(differences))
