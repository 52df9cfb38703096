"""Statistics of the gate: from rewards on anchors to shares, paired gains and their lower bounds. Pure."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple, TypeVar

from regrade.tasks.anchors import AnchorSet
from services.meta_reward.gate.alpha_spending import sign_flip_test

K = TypeVar("K")

TIE = 0.02
"""Rewards closer than this count as equal, so that noise in the judge's probabilities orders nothing."""
_RESAMPLES = 2_000
_MAX_RESAMPLES = 20_000
"""Bounds the time that one gain takes."""
_MIN_BELOW_QUANTILE = 10
"""A bootstrap quantile needs about so many resamples below it to be stable, so a lower level takes more resamples."""


class AnchorScores(NamedTuple):
    """A rubric's results on the anchors that count, by the index of the original or by transform.

    `net` is the share of damaged copies that an original beats minus the share that beat it. Gains are measured in it:
    a rubric that decides by coin toss puts half of the pairs right where another sees ties, but as many wrong.
    """

    order: dict[int, float]
    """By original: the share of its damaged copies that it beats."""
    net: dict[int, float]
    resisted: dict[int, float]
    """By original: the share of attacks on it that do not raise its reward."""
    by_transform: dict[str, float]
    """By transform: the share of pairs in which the original beats its damaged copy."""
    inverted: dict[str, float]
    """By transform: the share of pairs in which the damaged copy beats its original."""
    trusted_mean: float | None
    rewards: tuple[float, ...]

    @property
    def mean_order(self) -> float:
        """Mean share over the originals; 0 without any."""
        return fmean(self.order.values()) if self.order else 0.0

    @property
    def mean_net(self) -> float:
        """Mean net order over the originals; 0 without any."""
        return fmean(self.net.values()) if self.net else 0.0

    @property
    def mean_resisted(self) -> float:
        """Mean share over the attacked originals; 1 without any."""
        return fmean(self.resisted.values()) if self.resisted else 1.0


def score_anchors(anchors: AnchorSet, rewards: Sequence[float | None], counts: Sequence[bool]) -> AnchorScores:
    """Results of a rubric with these rewards on `anchors.cases`, on those cases that count.

    A damaged copy is in order when its original scores higher by `TIE` or more; an attack is resisted when it scores
    higher than its original by less than `TIE`.
    """
    counted = [reward if is_counted else None for reward, is_counted in zip(rewards, counts, strict=True)]
    start = len(anchors.originals)
    first_attack = start + len(anchors.damaged)
    honest = {case.original: r for case, r in zip(anchors.originals, counted, strict=False) if r is not None}
    gaps = [
        (index, case, honest[case.original] - reward)
        for index, case in enumerate(anchors.cases[start:], start)
        if (reward := counted[index]) is not None and case.original in honest
    ]
    damaged = [(case, float(gap >= TIE), float(gap <= -TIE)) for index, case, gap in gaps if index < first_attack]
    return AnchorScores(
        order=_mean_by([(case.original, won) for case, won, _ in damaged]),
        net=_mean_by([(case.original, won - lost) for case, won, lost in damaged]),
        resisted=_mean_by([(c.original, float(gap > -TIE)) for index, c, gap in gaps if index >= first_attack]),
        by_transform=_mean_by([(case.kind, won) for case, won, _ in damaged]),
        inverted=_mean_by([(case.kind, lost) for case, _, lost in damaged]),
        trusted_mean=fmean(honest.values()) if honest else None,
        rewards=tuple(reward for reward in counted if reward is not None),
    )


class PairedGain(NamedTuple):
    """Mean gain over another rubric, and its lower confidence bound."""

    mean: float
    lower: float


def paired_gain(candidate: Mapping[int, float], other: Mapping[int, float], level: float) -> PairedGain:
    """Mean paired difference over the originals, and its lower confidence bound at `level`.

    A bound above 0 takes both tests. The sign-flip test holds the error level, because it is exact for any number of
    originals; a percentile bootstrap of few is too optimistic (of eight that all gain 0.1 the bound is 0.1 at any
    level). The bootstrap gives the bound its size, which the margin of non-inferiority and the choice between
    candidates need. A bound below 0 comes from the bootstrap alone.
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
    """Kendall's tau-a of two rankings of the same items; 1 for fewer than two items."""
    pairs = list(combinations(range(len(xs)), 2))
    if not pairs:
        return 1.0
    return sum(_sign(xs[i] - xs[j]) * _sign(ys[i] - ys[j]) for i, j in pairs) / len(pairs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _mean_by(values: Sequence[tuple[K, float]]) -> dict[K, float]:
    grouped: defaultdict[K, list[float]] = defaultdict(list)
    for key, value in values:
        grouped[key].append(value)
    return {key: fmean(group) for key, group in grouped.items()}
