"""The arithmetic of the gate: from rewards on anchors to shares, gains and their bounds. Pure."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple, TypeVar

from regrade.tasks.anchors import AnchorCase, AnchorSet
from services.meta_reward.gate.alpha_spending import sign_flip_test

K = TypeVar("K")

TIE = 0.02
_RESAMPLES = 2_000
_MAX_RESAMPLES = 20_000
_MIN_BELOW_QUANTILE = 10


class AnchorScores(NamedTuple):
    """Rewards on the anchors that count, and per original the share of twins it beats and of attacks it resists.

    `net` is the share of twins it beats minus the share that beat it. Gains are measured by it: where the old
    rubric sees ties, a rubric that tosses a coin puts half of the pairs right, and as many wrong.
    By transform: the share of originals that beat the twin, and of twins that beat the original (`inverted`).
    """

    order: dict[int, float]
    net: dict[int, float]
    resisted: dict[int, float]
    by_transform: dict[str, float]
    inverted: dict[str, float]
    trusted_mean: float | None
    rewards: tuple[float, ...]

    @property
    def mean_order(self) -> float:
        """Mean share over the originals; 0 when none counts."""
        return fmean(self.order.values()) if self.order else 0.0

    @property
    def mean_net(self) -> float:
        """Mean over the originals of what they win minus what they lose; 0 when none counts."""
        return fmean(self.net.values()) if self.net else 0.0

    @property
    def mean_resisted(self) -> float:
        """Mean share over the attacked originals; 1 when none was attacked."""
        return fmean(self.resisted.values()) if self.resisted else 1.0


def score_anchors(anchors: AnchorSet, rewards: Sequence[float | None], counts: Sequence[bool]) -> AnchorScores:
    """A rubric's table from its rewards on `anchors.cases`, of those cases that count.

    A twin is ordered when the original scores higher by a tie or more; an attack is resisted when it
    scores higher than its original by less than a tie.
    """
    known = [r if counted else None for r, counted in zip(rewards, counts, strict=True)]
    start = len(anchors.originals)
    honest = {c.original: r for c, r in zip(anchors.originals, known[:start], strict=True) if r is not None}
    order: list[tuple[AnchorCase, float]] = []
    inverted: list[tuple[AnchorCase, float]] = []
    resisted: list[tuple[AnchorCase, float]] = []
    for index, case in enumerate(anchors.cases[start:], start):
        reward = known[index]
        if reward is None or case.original not in honest:
            continue
        gap = honest[case.original] - reward
        if index < start + len(anchors.damaged):
            order.append((case, float(gap >= TIE)))
            inverted.append((case, float(gap <= -TIE)))
        else:
            resisted.append((case, float(gap > -TIE)))
    return AnchorScores(
        order=_mean_by([(case.original, won) for case, won in order]),
        net=_mean_by([(case.original, won - lost) for (case, won), (_, lost) in zip(order, inverted, strict=True)]),
        resisted=_mean_by([(case.original, won) for case, won in resisted]),
        by_transform=_mean_by([(case.kind, won) for case, won in order]),
        inverted=_mean_by([(case.kind, lost) for case, lost in inverted]),
        trusted_mean=fmean(honest.values()) if honest else None,
        rewards=tuple(reward for reward in known if reward is not None),
    )


class PairedGain(NamedTuple):
    """Mean gain over another rubric, and its lower confidence bound."""

    mean: float
    lower: float


def paired_gain(candidate: Mapping[int, float], other: Mapping[int, float], level: float) -> PairedGain:
    """Mean difference over originals, paired, and its lower bound at `level`: a bootstrap's quantile, held by a test.

    Which of the two decides: both have to say so before the bound is above 0. The permutation test
    (`power.flip_test`) is what makes the error level hold: it is exact, however few originals there are, where a
    bootstrap of few is too sure (eight that all gain 0.1 have a bound of 0.1 at any level). The percentile bootstrap
    is what puts a number to the bound, which the margin of non-inferiority and the choice among those that pass need
    and no test of zero gives. A bound below 0 is the bootstrap's alone.
    """
    differences = [candidate[original] - other[original] for original in candidate]
    if not differences:
        return PairedGain(0.0, 0.0)
    rng = random.Random(0)  # noqa: S311 - the same resamples for every candidate
    count = min(_MAX_RESAMPLES, max(_RESAMPLES, int(_MIN_BELOW_QUANTILE / level)))
    size = len(differences)
    means = sorted(sum(rng.choices(differences, k=size)) / size for _ in range(count))
    lower = means[int(level * count)]
    return PairedGain(fmean(differences), lower if sign_flip_test(differences) <= level else min(lower, 0.0))


def kendall_tau(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Kendall's tau-a of two rankings of the same items; 1 when there is nothing to compare."""
    pairs = list(combinations(range(len(xs)), 2))
    if not pairs:
        return 1.0
    return sum(_sign(xs[i] - xs[j]) * _sign(ys[i] - ys[j]) for i, j in pairs) / len(pairs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _mean_by(rows: Sequence[tuple[K, float]]) -> dict[K, float]:
    grouped: defaultdict[K, list[float]] = defaultdict(list)
    for key, value in rows:
        grouped[key].append(value)
    return {key: fmean(values) for key, values in grouped.items()}
