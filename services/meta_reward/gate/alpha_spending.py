"""How sure the gate may be: the error level of each decision, and how many originals it takes. Pure.

The anchors of a line are asked again and again, and whoever asks often enough is told yes by chance. So the
decisions against one active rubric share the error level `alpha`: the k-th gets `alpha / (k (k + 1))`, which
sums to `alpha` however many there are. What becomes active is a new rubric to beat, and opens a share of its
own. Over a whole lineage the expected number of false activations is then at most `alpha` for each activation
and one more: the promise of alpha investing (Foster and Stine 2008), without assuming that decisions are
independent, which on shared anchors they are not.

Anchors that people import are new evidence, but one pair is little of it: a decision counts until there are twice
as many originals as it was made on (`gate.decisions_on`). Of n0 at the least and n1 at the most, against one rubric,
that costs `alpha` once, and at most once more for each doubling: decisions on m to 2m - 1 originals all count for
each other, and there are `1 + floor(log2(n1 / n0))` such ranges, in whatever order anchors come and go. Early
completions that the gate takes up as it needs more (`early.py`) never start anything anew, nor does a report that
does not say on how many it rests (of an earlier release): against its rubric it counts for good.

Within a decision the level is divided by the candidates and by the ways to show a gain (Bonferroni). Dropping a
loser early only ever refuses, so looking early costs no error.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil, log2, sqrt
from statistics import NormalDist, pstdev

POWER = 0.8
"""How often a gain of the size called detectable is shown."""

_STEPS_PER_UNIT = 100
_MAX_EXACT = 64


def decision_alpha(alpha: float, decision: int) -> float:
    """The error level of the `decision`-th decision (from 1) that shares `alpha`."""
    return alpha / (decision * (decision + 1))


def min_originals(level: float) -> int:
    """With fewer originals not even a candidate that is better on every one could show a gain at this level."""
    return ceil(log2(1.0 / level))


def sign_flip_test(differences: Sequence[float]) -> float:
    """The chance of a sum of differences as large as this one, if each might as well have had the other sign.

    Exact, on differences rounded to a hundredth; by the normal approximation where there are many of them.
    """
    told = [
        round(difference * _STEPS_PER_UNIT) for difference in differences if round(difference * _STEPS_PER_UNIT) != 0
    ]
    if len(told) > _MAX_EXACT:
        return 1.0 - NormalDist().cdf(sum(told) / sqrt(sum(step * step for step in told)))
    chances = {0: 1.0}
    for step in told:
        halved: defaultdict[int, float] = defaultdict(float)
        for total, chance in chances.items():
            halved[total + step] += chance / 2.0
            halved[total - step] += chance / 2.0
        chances = halved
    return sum(chance for total, chance in chances.items() if total >= sum(told))


def detectable_gain(differences: Sequence[float], level: float) -> float:
    """The mean gain shown with a chance of `POWER` at this level, if other gains scatter as these differences do."""
    return _quantiles(level) * pstdev(differences) / sqrt(len(differences))


def originals_needed(deviation: float, gain: float, level: float) -> int:
    """How many originals show a mean `gain` with a chance of `POWER`, or a loss below a margin of that size.

    `deviation` is the standard deviation of the difference from original to original.
    """
    return max(min_originals(level), ceil((_quantiles(level) * deviation / gain) ** 2))


def _quantiles(level: float) -> float:
    normal = NormalDist()
    return normal.inv_cdf(1.0 - level) + normal.inv_cdf(POWER)
