"""Chart data of the console: series per step of one run, and per cycle. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from statistics import fmean, pstdev
from typing import NamedTuple

from regrade.contracts import CycleReport, Trace, as_text
from services.kit.text import segments
from services.meta_reward.console.descriptions import FEATURES
from services.meta_reward.console.plots import SMALL, Plot, Point, Size, plot
from services.meta_reward.evidence.window import SATURATED, by_group, zero_variance_share

_MAX_POINTS = 160
"""Points of a plot: six pixels each at full width; more could not be told apart."""
_MIN_BIN = 8
_MAX_CRITERIA = 12
_SHARE_DOMAIN = (-0.03, 1.03)
"""A little more than [0, 1], so that a line at 0 or 1 is not cut."""

Measure = Callable[[Sequence[Trace]], float]


class Figure(NamedTuple):
    """A small plot with its title, its newest and its first value."""

    title: str
    help: str
    last: float
    first: float
    is_share: bool
    plot: Plot | None


class RunSeries(NamedTuple):
    """One run over its steps: the reward, figures of its traces, and the mean score of each criterion."""

    run: str | None
    by_step: bool
    reward: Plot | None
    mean: float | None
    figures: tuple[Figure, ...]
    criteria: tuple[Figure, ...]


class _Step(NamedTuple):
    """The traces of one point, and the rubric version that scored most of them."""

    x: float
    version: str
    label: str
    traces: Sequence[Trace]


def runs_in(traces: Sequence[Trace]) -> list[str]:
    """The runs of traces (newest first), the run of the newest trace first."""
    return list(dict.fromkeys(trace.run for trace in traces if trace.run is not None))


def run_series(traces: Sequence[Trace], run: str | None) -> RunSeries:
    """The series of one run, or of the traces without a run, from traces in order newest first."""
    own = [trace for trace in reversed(traces) if trace.run == run]
    by_step = any(trace.step is not None for trace in own)
    steps = _by_step(own) if by_step else _in_bins(own)
    rewards = [_mean_point(step, [t.reward for t in step.traces], with_spread=True) for step in steps]
    return RunSeries(
        run=run,
        by_step=by_step,
        reward=plot(rewards, Size(), (0.0, 1.0)),
        mean=rewards[-1].y if rewards else None,
        figures=tuple(_step_figure(steps, *spec) for spec in _FIGURES) if steps else (),
        criteria=_criteria(steps),
    )


def _group_std(traces: Sequence[Trace]) -> float:
    groups = by_group(traces)
    return fmean(pstdev([trace.reward for trace in group]) for group in groups) if groups else 0.0


def _share(holds: Callable[[Trace], bool]) -> Measure:
    return lambda traces: fmean(holds(trace) for trace in traces)


def _words(traces: Sequence[Trace]) -> float:
    return fmean(len(segments.words(as_text(trace.completion))) for trace in traces)


_FIGURES: tuple[tuple[str, str, Measure, bool], ...] = (
    (
        "Reward spread in a group",
        "mean standard deviation of rewards in a group: what advantages are computed from",
        _group_std,
        False,
    ),
    ("Groups with equal rewards", "share of groups without spread: they give no gradient", zero_variance_share, True),
    ("Rewards near 1", f"share of rewards of {SATURATED} or more", _share(lambda t: t.reward >= SATURATED), True),
    ("Flagged", "share of completions with a flag", _share(lambda t: bool(t.flags)), True),
    ("Words", "mean words of a completion", _words, False),
)
"""Title, help, measure over a step's traces, and whether the value is a share."""


def _figure(title: str, text: str, points: Sequence[Point], *, is_share: bool, in_unit: bool) -> Figure:
    drawn = plot(points, SMALL, _SHARE_DOMAIN if in_unit else None)
    return Figure(title, text, points[-1].y, points[0].y, is_share, drawn)


def _flat_point(x: float, value: float, version: str, note: str) -> Point:
    return Point(x, value, value, value, version, note)


def _step_figure(steps: Sequence[_Step], title: str, text: str, measure: Measure, is_share: bool) -> Figure:
    points = []
    for step in steps:
        value = measure(step.traces)
        note = f"{step.label}: {value:.0%}" if is_share else f"{step.label}: {value:.3g}"
        points.append(_flat_point(step.x, value, step.version, note))
    return _figure(title, text, points, is_share=is_share, in_unit=is_share)


def _criteria(steps: Sequence[_Step]) -> tuple[Figure, ...]:
    """A figure for each criterion of the newest step: its mean score in every step that has it."""
    names = dict.fromkeys(c.id for trace in steps[-1].traces for c in trace.criteria) if steps else {}
    figures = []
    for name in list(names)[:_MAX_CRITERIA]:
        points = []
        for step in steps:
            scores = [c.score for t in step.traces for c in t.criteria if c.id == name and c.score is not None]
            if scores:
                points.append(_mean_point(step, scores))
        if points:
            figures.append(_figure(name, "mean score of this criterion", points, is_share=False, in_unit=True))
    return tuple(figures)


def _mean_point(step: _Step, values: Sequence[float], *, with_spread: bool = False) -> Point:
    mean = fmean(values)
    std = pstdev(values) if with_spread else 0.0
    spread = f" ± {std:.3f}" if with_spread else ""
    note = f"{step.label}, {step.version}: {mean:.3f}{spread}, {len(values)} traces"
    return Point(step.x, mean, max(0.0, mean - std), min(1.0, mean + std), step.version, note)


def _by_step(traces: Sequence[Trace]) -> list[_Step]:
    traces_of: defaultdict[int, list[Trace]] = defaultdict(list)
    for trace in traces:
        if trace.step is not None:
            traces_of[trace.step].append(trace)
    order = sorted(traces_of)
    width = -(-len(order) // _MAX_POINTS)
    steps = []
    for start in range(0, len(order), width):
        numbers = order[start : start + width]
        inside = [trace for number in numbers for trace in traces_of[number]]
        label = f"step {numbers[0]}" if len(numbers) == 1 else f"steps {numbers[0]} to {numbers[-1]}"
        steps.append(_Step(float(numbers[-1]), _main_version(inside), label, inside))
    return steps


def _in_bins(traces: Sequence[Trace]) -> list[_Step]:
    """Bins of equally many traces, for runs that send no step."""
    width = max(_MIN_BIN, -(-len(traces) // _MAX_POINTS))
    bins = [traces[start : start + width] for start in range(0, len(traces), width)]
    ends = accumulate(map(len, bins))
    return [_Step(float(end), _main_version(b), f"traces to {end}", b) for end, b in zip(ends, bins, strict=True)]


def _main_version(traces: Sequence[Trace]) -> str:
    return Counter(f"v{t.version}" if t.version else t.digest[:8] for t in traces).most_common(1)[0][0]


def cycle_figures(reports: Sequence[CycleReport]) -> tuple[Figure, ...]:
    """Text features of the policy's completions by cycle, from reports in order oldest first."""
    finished = [report for report in reports if report.abandoned is None]
    figures = []
    for name, (title, text) in FEATURES.items():
        points = [
            _flat_point(float(n), value, "", f"{report.cycle}: {value:.3g}")
            for n, report in enumerate(finished)
            if (value := report.evidence.means.get(name)) is not None
        ]
        if points:
            figures.append(_figure(title, text, points, is_share=False, in_unit=False))
    return tuple(figures)
