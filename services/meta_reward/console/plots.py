"""Plot geometry: numbers in, SVG coordinates and paths out, which a template draws. Pure.

Every coordinate is a number formatted here, so no text from outside reaches a path.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_TICK_FACTORS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TIP_MARGIN = 90.0
"""Half the width of a tooltip, which keeps it inside the plot."""


class Point(NamedTuple):
    """A value with its band, the rubric version it was measured under, and its tooltip."""

    x: float
    y: float
    low: float
    high: float
    version: str
    note: str


class Size(NamedTuple):
    """Size and margins of a plot, in SVG user units."""

    width: float = 960.0
    height: float = 260.0
    left: float = 44.0
    top: float = 26.0
    right: float = 14.0
    bottom: float = 26.0


SMALL = Size(300.0, 92.0, 6.0, 8.0, 6.0, 8.0)


class Dot(NamedTuple):
    """A drawn point, the column in which the pointer selects it, and its tooltip with its position."""

    x: str
    y: str
    left: str
    width: str
    note: str
    tip: str


class VersionSpan(NamedTuple):
    """The x range of one rubric version; `is_return` marks a version that was active before."""

    left: str
    width: str
    middle: str
    label: str
    is_return: bool


class Tick(NamedTuple):
    """A position on an axis, and its label."""

    at: str
    label: str


class Plot(NamedTuple):
    """What a template draws. Lines break where the rubric version changes: rewards across versions do not compare."""

    size: Size
    lines: tuple[str, ...]
    bands: tuple[str, ...]
    dots: tuple[Dot, ...]
    version_spans: tuple[VersionSpan, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def plot(points: Sequence[Point], size: Size, domain: tuple[float, float] | None = None) -> Plot | None:
    """A line plot of points in order of x, or None without points. `domain` is the range of y."""
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
            Dot(_n(x), _n(y_of(p.y)), _n(left), _n(right - left), p.note, _n(_inside(x, size)))
            for x, p, (left, right) in zip(xs, points, _columns(xs, size), strict=True)
        ),
        version_spans=_version_spans(segments, [x_of(s[0].x) for s in segments], size),
        x_ticks=tuple(Tick(_n(x_of(v)), f"{v:g}") for v in _ticks(first, last, 8, least=1.0) if first <= v <= last),
        y_ticks=tuple(Tick(_n(y_of(v)), f"{v:g}") for v in _ticks(low, high, 4) if low <= v <= high),
    )


def share_of(value: float, low: float, high: float) -> str:
    """The position of a value between two others in percent, clipped to 0 to 100."""
    return _n(100.0 * min(1.0, max(0.0, (value - low) / (high - low))))


def _inside(x: float, size: Size) -> float:
    return min(max(x, _TIP_MARGIN), size.width - _TIP_MARGIN)


def _domain(points: Sequence[Point]) -> tuple[float, float]:
    low, high = min(p.low for p in points), max(p.high for p in points)
    margin = 0.08 * (high - low) or max(0.05, 0.1 * abs(high))
    return low - margin, high + margin


def _segments(points: Sequence[Point]) -> list[list[Point]]:
    """Runs of consecutive points under one version. A version can come back after a rollback."""
    segments: list[list[Point]] = []
    for point in points:
        if segments and segments[-1][-1].version == point.version:
            segments[-1].append(point)
        else:
            segments.append([point])
    return segments


def _version_spans(segments: Sequence[Sequence[Point]], starts: Sequence[float], size: Size) -> tuple[VersionSpan, ...]:
    edges = [size.left, *starts[1:], size.width - size.right]
    earlier: set[str] = set()
    spans = []
    for segment, (left, right) in zip(segments, pairwise(edges), strict=True):
        label = segment[0].version
        spans.append(VersionSpan(_n(left), _n(right - left), _n((left + right) / 2), label, label in earlier))
        earlier.add(label)
    return tuple(spans)


def _columns(xs: Sequence[float], size: Size) -> list[tuple[float, float]]:
    """For each x, the range that is nearer to it than to its neighbours."""
    return list(pairwise([size.left, *((a + b) / 2 for a, b in pairwise(xs)), size.width - size.right]))


def _ticks(low: float, high: float, count: int, least: float = 0.0) -> list[float]:
    """Round numbers from `low` on, about `count` up to `high`, and `least` apart or more."""
    if high <= low:
        return [low]
    rough = max((high - low) / count, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in _TICK_FACTORS if power * factor >= rough)
    start = step * -(-low // step)
    return [round(start + n * step, 10) for n in range(int((high - low) / step) + 2)]


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in places)


def _n(value: float) -> str:
    return f"{value:.1f}"
