"""From traces and reports to the series that are plotted: per step of one run, and per cycle. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

from regrade.contracts import CycleReport, Trace, as_text
from services.meta_reward.console.plots import SMALL, Plot, Point, Size, plot
from services.meta_reward.evidence.window import SATURATED, by_group, zero_variance_share

_MOST_POINTS = 160
_MOST_CRITERIA = 12


class Figure(NamedTuple):
    """A small plot with its title, its newest value, and what it was at first."""

    title: str
    help: str
    last: float
    first: float
    is_share: bool
    plot: Plot | None


class RunSeries(NamedTuple):
    """One run as it went: the reward, figures beside it, and the score of each criterion."""

    run: str | None
    by_step: bool
    reward: Plot | None
    mean: float | None
    figures: tuple[Figure, ...]
    criteria: tuple[Figure, ...]


class _Step(NamedTuple):
    x: float
    version: str
    label: str
    traces: Sequence[Trace]


def runs_in(traces: Sequence[Trace]) -> list[str]:
    """The runs of traces that come newest first, the run of the newest first."""
    return list(dict.fromkeys(trace.run for trace in traces if trace.run is not None))


def run_series(traces: Sequence[Trace], run: str | None) -> RunSeries:
    """The series of one run (None: of the traces without one), from traces that come newest first."""
    own = [trace for trace in reversed(traces) if trace.run == run]
    by_step = any(trace.step is not None for trace in own)
    steps = _by_step(own) if by_step else _in_bins(own)
    rewards = [_point(step, [t.reward for t in step.traces], spread=True) for step in steps]
    return RunSeries(
        run=run,
        by_step=by_step,
        reward=plot(rewards, Size(), (0.0, 1.0)),
        mean=rewards[-1].y if rewards else None,
        figures=tuple(_figure(steps, rule) for rule in _FIGURES) if steps else (),
        criteria=_criteria(steps),
    )


def _group_std(traces: Sequence[Trace]) -> float:
    groups = by_group(traces)
    return fmean(pstdev([trace.reward for trace in group]) for group in groups) if groups else 0.0


def _share(holds: Callable[[Trace], bool]) -> Callable[[Sequence[Trace]], float]:
    return lambda traces: fmean(holds(trace) for trace in traces)


def _words(traces: Sequence[Trace]) -> float:
    return fmean(len(as_text(trace.completion).split()) for trace in traces)


class _FigureSpec(NamedTuple):
    """How a figure of a step is measured, and what it is called."""

    title: str
    about: str
    measure: Callable[[Sequence[Trace]], float]
    is_share: bool = True


_FIGURES = (
    _FigureSpec(
        "Spread within groups", "mean deviation of rewards in a group: what advantages are made of", _group_std, False
    ),
    _FigureSpec(
        "Groups without spread", "share of groups whose rewards are all equal: they teach nothing", zero_variance_share
    ),
    _FigureSpec("Saturated", "share of rewards of 0.95 or more", _share(lambda t: t.reward >= SATURATED)),
    _FigureSpec("Flagged", "share of completions with a flag", _share(lambda t: bool(t.flags))),
    _FigureSpec("Words", "mean words of a completion", _words, False),
)


def _figure(steps: Sequence[_Step], rule: _FigureSpec) -> Figure:
    points = []
    for step in steps:
        value = rule.measure(step.traces)
        told = f"{value:.0%}" if rule.is_share else f"{value:.3g}"
        points.append(Point(step.x, value, value, value, step.version, f"{step.label}: {told}"))
    drawn = plot(points, SMALL, (-0.03, 1.03) if rule.is_share else None)
    return Figure(rule.title, rule.about, points[-1].y, points[0].y, rule.is_share, drawn)


def _criteria(steps: Sequence[_Step]) -> tuple[Figure, ...]:
    """A figure for each criterion of the newest step, by its mean score in every step that has it."""
    if not steps:
        return ()
    names = dict.fromkeys(c.id for trace in steps[-1].traces for c in trace.criteria)
    figures = []
    for name in list(names)[:_MOST_CRITERIA]:
        points = []
        for step in steps:
            scores = [c.score for t in step.traces for c in t.criteria if c.id == name and c.score is not None]
            if scores:
                points.append(_point(step, scores))
        if points:
            drawn = plot(points, SMALL, (-0.03, 1.03))
            figures.append(Figure(name, "mean score of this criterion", points[-1].y, points[0].y, False, drawn))
    return tuple(figures)


def _point(step: _Step, values: Sequence[float], *, spread: bool = False) -> Point:
    mean = fmean(values)
    std = pstdev(values) if spread else 0.0
    more = f" ± {std:.3f}" if spread else ""
    note = f"{step.label}, {step.version}: {mean:.3f}{more}, {len(values)} traces"
    return Point(step.x, mean, max(0.0, mean - std), min(1.0, mean + std), step.version, note)


def _by_step(traces: Sequence[Trace]) -> list[_Step]:
    found: defaultdict[int, list[Trace]] = defaultdict(list)
    for trace in traces:
        if trace.step is not None:
            found[trace.step].append(trace)
    order = sorted(found)
    width = -(-len(order) // _MOST_POINTS)
    steps = []
    for start in range(0, len(order), width):
        named = order[start : start + width]
        inside = [trace for step in named for trace in found[step]]
        label = f"step {named[0]}" if len(named) == 1 else f"steps {named[0]} to {named[-1]}"
        steps.append(_Step(float(named[-1]), _main_version(inside), label, inside))
    return steps


def _in_bins(traces: Sequence[Trace]) -> list[_Step]:
    """Where nobody counts steps: as many traces a point as make the most points."""
    width = max(8, -(-len(traces) // _MOST_POINTS))
    bins = [traces[start : start + width] for start in range(0, len(traces), width)]
    return [
        _Step(float(n * width + len(b)), _main_version(b), f"traces to {n * width + len(b)}", b)
        for n, b in enumerate(bins)
    ]


def _main_version(traces: Iterable[Trace]) -> str:
    """The rubric that gave most of these rewards."""
    return Counter(f"v{t.version}" if t.version else t.digest[:8] for t in traces).most_common(1)[0][0]


EVIDENCE = {
    "words": "words of a completion",
    "distinct_4": "share of distinct 4-grams: falls when text repeats itself",
    "compression": "compressed size by plain size: falls when text repeats itself",
    "topic_overlap": "share of the prompt's topic words that are taken up",
    "prompt_copied": "share of a completion that is copied from its prompt",
    "ends_properly": "share that ends with a sentence",
    "stock_opening": "share of other prompts that got the same opening",
    "truncated": "share cut at the token limit",
}


def cycle_figures(reports: Sequence[CycleReport]) -> tuple[Figure, ...]:
    """Evidence over cycles, oldest first: the surface of what the policy writes."""
    seen = [report for report in reports if report.abandoned is None]
    figures = []
    for name, about in EVIDENCE.items():
        points = []
        for n, report in enumerate(seen):
            value = report.evidence.means.get(name)
            if value is not None:
                note = f"{report.cycle}: {value:.3g}"
                points.append(Point(float(n), value, value, value, "", note))
        if points:
            last, first = points[-1].y, points[0].y
            figures.append(Figure(name.replace("_", " "), about, last, first, False, plot(points, SMALL)))
    return tuple(figures)
