"""Plots as geometry: numbers in, coordinates and path texts out; a template draws them. Pure.

A coordinate is a number that was formatted here, so no text of anybody's gets into a path.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_TICKS = (1.0, 2.0, 2.5, 5.0, 10.0)


class Point(NamedTuple):
    """One value of a series, the band around it, the rubric version it came under, and what to say about it."""

    x: float
    y: float
    low: float
    high: float
    version: str
    note: str


class Size(NamedTuple):
    """Of a plot, in user units, and the room at its left, top, right and bottom."""

    width: float = 960.0
    height: float = 260.0
    left: float = 44.0
    top: float = 26.0
    right: float = 14.0
    bottom: float = 26.0


SMALL = Size(300.0, 92.0, 6.0, 8.0, 6.0, 8.0)


class Dot(NamedTuple):
    """A point where it is drawn, and the column in which a pointer finds it."""

    x: str
    y: str
    left: str
    width: str
    note: str
    tip: str


class VersionSpan(NamedTuple):
    """A stretch under one rubric version: where it begins and ends, and its name."""

    left: str
    width: str
    middle: str
    label: str
    is_return: bool


class Tick(NamedTuple):
    """A place on an axis, and its label."""

    at: str
    label: str


class Plot(NamedTuple):
    """Everything a template needs. Lines break where the rubric version changes: across it nothing compares."""

    size: Size
    lines: tuple[str, ...]
    bands: tuple[str, ...]
    dots: tuple[Dot, ...]
    version_spans: tuple[VersionSpan, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def plot(points: Sequence[Point], size: Size, domain: tuple[float, float] | None = None) -> Plot | None:
    """A line plot of points in the order of x, or None where there is nothing to draw."""
    if not points:
        return None
    low, high = domain or _domain(points)
    first, last = points[0].x, points[-1].x
    inner_width = size.width - size.left - size.right
    inner_height = size.height - size.top - size.bottom

    def x_of(x: float) -> float:
        return size.left + inner_width * ((x - first) / (last - first) if last > first else 0.5)

    def y_of(y: float) -> float:
        return size.top + inner_height * (1.0 - (min(max(y, low), high) - low) / (high - low))

    segments = _segments(points)
    xs = [x_of(point.x) for point in points]
    return Plot(
        size=size,
        lines=tuple(_path([(x_of(p.x), y_of(p.y)) for p in segment]) for segment in segments),
        bands=tuple(
            _path([(x_of(p.x), y_of(p.high)) for p in s] + [(x_of(p.x), y_of(p.low)) for p in reversed(s)]) + "Z"
            for s in segments
            if any(p.high > p.low for p in s)
        ),
        dots=tuple(
            Dot(_n(x), _n(y_of(p.y)), _n(left), _n(right - left), p.note, _n(min(max(x, 90.0), size.width - 90.0)))
            for x, p, (left, right) in zip(xs, points, _columns(xs, size), strict=True)
        ),
        version_spans=_version_spans(segments, [x_of(s[0].x) for s in segments], size),
        x_ticks=tuple(Tick(_n(x_of(v)), f"{v:g}") for v in _ticks(first, last, 8) if first <= v <= last),
        y_ticks=tuple(Tick(_n(y_of(v)), f"{v:g}") for v in _ticks(low, high, 4) if low <= v <= high),
    )


def share_of(value: float, low: float, high: float) -> str:
    """Where a value stands between two, in percent, kept inside."""
    return _n(100.0 * min(1.0, max(0.0, (value - low) / (high - low))))


def _domain(points: Sequence[Point]) -> tuple[float, float]:
    low, high = min(p.low for p in points), max(p.high for p in points)
    room = 0.08 * (high - low) or max(0.05, 0.1 * abs(high))
    return low - room, high + room


def _segments(points: Sequence[Point]) -> list[list[Point]]:
    found: list[list[Point]] = []
    for point in points:
        if found and found[-1][-1].version == point.version:
            found[-1].append(point)
        else:
            found.append([point])
    return found


def _version_spans(segments: Sequence[Sequence[Point]], starts: Sequence[float], size: Size) -> tuple[VersionSpan, ...]:
    edges = [size.left, *(start for start in starts[1:]), size.width - size.right]
    seen: set[str] = set()
    version_spans = []
    for segment, left, right in zip(segments, edges, edges[1:], strict=False):
        label = segment[0].version
        version_spans.append(VersionSpan(_n(left), _n(right - left), _n((left + right) / 2), label, label in seen))
        seen.add(label)
    return tuple(version_spans)


def _columns(xs: Sequence[float], size: Size) -> list[tuple[float, float]]:
    """Around each place the stretch that is nearer to it than to its neighbours."""
    edges = [size.left, *((a + b) / 2 for a, b in pairwise(xs)), size.width - size.right]
    return list(pairwise(edges))


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two, `most` of them at the most."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 1.0
    while power > rough:
        power /= 10.0
    while power * 10.0 <= rough:
        power *= 10.0
    step = next(power * factor for factor in _TICKS if power * factor >= rough)
    count = int((high - low) / step) + 2
    start = step * -(-low // step)
    return [round(start + n * step, 10) for n in range(count)]


def _path(xs: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in xs)


def _n(value: float) -> str:
    return f"{value:.1f}"
