"""Ranks, rank correlation and means for the evidence. Pure; SciPy would add 140 MB to the image for these lines."""

from collections.abc import Mapping, Sequence
from statistics import correlation, fmean, pstdev

_EPSILON = 1e-6
"""Values closer than this are equal up to rounding."""
_MIN_VALUES = 3
"""Two points always correlate perfectly."""


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's rank correlation, with mean ranks for ties; 0 if either is constant or has fewer than 3 values."""
    if len(xs) < _MIN_VALUES or all_equal(xs) or all_equal(ys):
        return 0.0
    return max(-1.0, min(1.0, correlation(ranks(xs), ranks(ys))))


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values get their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in range(start, end + 1):
            result[order[position]] = (start + end) / 2
        start = end + 1
    return result


def all_equal(values: Sequence[float]) -> bool:
    """Whether all values are equal up to rounding."""
    return max(values) - min(values) < _EPSILON


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each key over all rows, which have the same keys."""
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def z_scores(values: Sequence[float]) -> list[float]:
    """Distances from the mean in standard deviations; all 0 if the values are equal."""
    if all_equal(values):
        return [0.0] * len(values)
    centre, width = fmean(values), pstdev(values)
    return [(value - centre) / width for value in values]
