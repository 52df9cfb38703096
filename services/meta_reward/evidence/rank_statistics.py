"""The arithmetic of the evidence: ranks, correlations, means of rows. Pure."""

from collections.abc import Mapping, Sequence
from statistics import correlation, fmean, pstdev

_EQUAL = 1e-6
_MIN_VALUES = 3


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's rank correlation, ties by their mean rank; 0 when either is constant or there are fewer than three."""
    if len(xs) < _MIN_VALUES or all_equal(xs) or all_equal(ys):
        return 0.0
    return max(-1.0, min(1.0, correlation(ranks(xs), ranks(ys))))


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in range(start, end + 1):
            found[order[position]] = (start + end) / 2
        start = end + 1
    return found


def all_equal(values: Sequence[float]) -> bool:
    """Whether all are equal, within rounding."""
    return max(values) - min(values) < _EQUAL


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each column."""
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def z_scores(values: Sequence[float]) -> list[float]:
    """Distances from the mean in standard deviations; all 0 when the values are equal."""
    if all_equal(values):
        return [0.0] * len(values)
    centre, width = fmean(values), pstdev(values)
    return [(value - centre) / width for value in values]
