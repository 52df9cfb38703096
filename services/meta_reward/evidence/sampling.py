"""Which traces the meta-judge gets to see: small strategies, mixed by weights. Pure.

What is drawn depends on the window, the weights and the seed alone, and all of them are in the cycle's report.
"""

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, combinations
from statistics import fmean
from typing import NamedTuple, Protocol

from regrade.contracts import SamplePick, SampleReport, SampleStrategy, Trace, as_text
from services.kit.text import features
from services.meta_reward.evidence.rank_statistics import ranks, z_scores
from services.meta_reward.evidence.text_features import TextFeatures

Pick = tuple[Trace, ...]
"""One trace, or the two of a pair."""

_GREAT_SHARE = 0.25
_GREAT_A_PROMPT = 8


class SamplingPool(NamedTuple):
    """What is drawn from: traces in the stream's order, their surface, and an audit judge's rewards by trace id."""

    traces: Sequence[Trace]
    rows: Sequence[TextFeatures]
    audit: Mapping[str, float] = {}


class Strategy(Protocol):
    """An order of picks, the most wanted first. `rng` is the only chance it may use."""

    def __call__(self, pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
        """Picks from the pool, lazily: few are taken."""
        ...


def sample_seed(label: str, cycle: str) -> str:
    """The seed of a cycle's sample in the line of that label."""
    return f"{label}/{cycle}"


def draw_sample(pool: SamplingPool, count: int, weights: Mapping[SampleStrategy, float], seed: str) -> SampleReport:
    """`count` traces, all if there are fewer, each drawn once; strategies get places in proportion to their weights.

    A pair takes two places. Where a strategy has nothing left that fits, its place goes by lot.
    """
    rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
    places = _allocate_slots(count, weights, rng)
    orders = {strategy: STRATEGIES[strategy](pool, rng) for strategy in sorted({*places, SampleStrategy.UNIFORM})}
    left = {trace.trace_id for trace in pool.traces}
    room = min(count, len(left))
    picks: list[SamplePick] = []
    for strategy in (*places, *[SampleStrategy.UNIFORM] * count):
        ids = _next_pick(orders[strategy], left, room)
        if ids:
            picks.append(SamplePick(strategy=strategy, traces=ids))
            left.difference_update(ids)
            room -= len(ids)
    return SampleReport(seed=seed, count=count, weights=dict(weights), picks=tuple(picks))


def sampled_traces(report: SampleReport, window: Sequence[Trace]) -> list[Trace]:
    """The sampled traces of a window, in the order they were picked."""
    known = {trace.trace_id: trace for trace in window}
    return [known[trace_id] for pick in report.picks for trace_id in pick.traces]


def sampled_pairs(report: SampleReport, window: Sequence[Trace]) -> list[tuple[Trace, Trace]]:
    """The sampled pairs, the better rewarded first."""
    known = {trace.trace_id: trace for trace in window}
    both = [[known[trace_id] for trace_id in pick.traces] for pick in report.picks if len(pick.traces) == 2]
    return [(better, other) for better, other in both]


def uniform(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """By lot."""
    for trace in rng.sample(list(pool.traces), len(pool.traces)):
        yield (trace,)


def recent(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """The newest first."""
    for trace in reversed(pool.traces):
        yield (trace,)


def suspicious(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """By reward rank plus oddness: the mean distance of its surface from the window's, in standard deviations."""
    columns = [z_scores([row.features[name] for row in pool.rows]) for name in pool.rows[0].features]
    oddness = [fmean(abs(z) for z in found) for found in zip(*columns, strict=True)]
    return _by_priority(
        [place + odd for place, odd in zip(_percentiles([t.reward for t in pool.traces]), oddness, strict=True)], pool
    )


def disagreement(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """By the judge's doubt, plus how far criteria contradict each other, plus how far an audit contradicts rewards."""
    doubt = [
        1.0 - min((c.confidence for c in t.criteria if c.confidence is not None), default=1.0) for t in pool.traces
    ]
    audit = [abs(pool.audit.get(trace.trace_id, trace.reward) - trace.reward) for trace in pool.traces]
    return _by_priority([sum(parts) for parts in zip(doubt, _conflict(pool.traces), audit, strict=True)], pool)


def great_pairs(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """Of the best quarter, two for one prompt: the pairs that share the fewest words first."""
    by_reward = sorted(pool.traces, key=lambda trace: -trace.reward)
    least = by_reward[int(_GREAT_SHARE * len(by_reward))].reward
    great: defaultdict[str, list[Trace]] = defaultdict(list)
    for trace in by_reward:
        found = great[as_text(trace.prompt)]
        if trace.reward >= least and len(found) < _GREAT_A_PROMPT:
            found.append(trace)
    listed = [pair for found in great.values() for pair in combinations(found, 2)]
    vocabulary = {
        t.trace_id: frozenset(features.words(as_text(t.completion))) for found in great.values() for t in found
    }
    alike = {(a.trace_id, b.trace_id): _overlap(vocabulary[a.trace_id], vocabulary[b.trace_id]) for a, b in listed}
    yield from sorted(listed, key=lambda pair: alike[pair[0].trace_id, pair[1].trace_id])


STRATEGIES: Mapping[SampleStrategy, Strategy] = {
    SampleStrategy.UNIFORM: uniform,
    SampleStrategy.RECENT: recent,
    SampleStrategy.SUSPICIOUS: suspicious,
    SampleStrategy.DISAGREEMENT: disagreement,
    SampleStrategy.GREAT_PAIRS: great_pairs,
}


def _allocate_slots(count: int, weights: Mapping[SampleStrategy, float], rng: random.Random) -> list[SampleStrategy]:
    """Systematic sampling: each strategy gets its share of places, rounded up or down by one throw of the dice."""
    strategies = [strategy for strategy in sorted(weights) if weights[strategy] > 0.0]
    reached = list(accumulate(weights[strategy] for strategy in strategies))
    first = rng.random()
    points = [(first + n) / count * reached[-1] for n in range(count)]
    places = [strategies[min(bisect_right(reached, point), len(strategies) - 1)] for point in points]
    rng.shuffle(places)
    return places


def _next_pick(order: Iterator[Pick], left: set[str], room: int) -> tuple[str, ...]:
    """The ids of the next pick that fits and is all new; empty when none is left."""
    if room == 0:
        return ()
    for pick in order:
        ids = tuple(trace.trace_id for trace in pick)
        if len(ids) <= room and left.issuperset(ids):
            return ids
    return ()


def _by_priority(wanted: Sequence[float], pool: SamplingPool) -> Iterator[Pick]:
    """The most wanted first, of equals the older."""
    return iter([(pool.traces[i],) for i in sorted(range(len(wanted)), key=lambda i: -wanted[i])])


def _percentiles(values: Sequence[float]) -> list[float]:
    """Each value's place among all, from 0 for the lowest to 1."""
    return [rank / max(1, len(values) - 1) for rank in ranks(values)]


def _conflict(traces: Sequence[Trace]) -> list[float]:
    """For each trace, its best criterion's place in the window minus its worst one's; 0 with one criterion."""
    scored: defaultdict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for index, trace in enumerate(traces):
        for criterion in trace.criteria:
            if criterion.score is not None:
                scored[trace.digest, criterion.id].append((index, criterion.score))
    places: defaultdict[int, list[float]] = defaultdict(list)
    for found in scored.values():
        for (index, _), place in zip(found, _percentiles([score for _, score in found]), strict=True):
            places[index].append(place)
    return [max(places[i]) - min(places[i]) if i in places else 0.0 for i in range(len(traces))]


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))
