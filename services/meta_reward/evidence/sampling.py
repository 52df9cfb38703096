"""The sample of traces that the meta-judge reads: a mix of small strategies by weights. Pure.

The sample depends on the window, the weights and the seed, all of which are in the cycle's report.
"""

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, combinations
from statistics import fmean
from typing import NamedTuple

from regrade.contracts import SamplePick, SampleReport, SampleStrategy, Trace, as_text
from services.kit.text.segments import words
from services.meta_reward.evidence.rank_statistics import ranks, z_scores
from services.meta_reward.evidence.text_features import TextFeatures, read_text

Pick = tuple[Trace, ...]
"""One trace, or the two of a pair."""

_GREAT_SHARE = 0.25
"""The upper quarter by reward counts as great."""
_MAX_GREAT_PER_PROMPT = 8
"""Pairs grow with the square of it."""


class SamplingPool(NamedTuple):
    """The traces to draw from, in stream order, with their features and the audit judge's rewards by trace id."""

    traces: Sequence[Trace]
    features: Sequence[TextFeatures]
    audit: Mapping[str, float] = {}


Strategy = Callable[[SamplingPool, random.Random], Iterator[Pick]]
"""Gives all picks from a pool by priority, lazily, since few are taken. Chance comes only from the generator given."""


def sample_seed(label: str, cycle: str) -> str:
    """The seed of a cycle's sample; `label` names the lineage."""
    return f"{label}/{cycle}"


def draw_sample(pool: SamplingPool, count: int, weights: Mapping[SampleStrategy, float], seed: str) -> SampleReport:
    """`count` distinct traces, all if there are fewer; strategies get slots in proportion to their weights.

    A pair takes two slots. A slot for which its strategy has no pick left that fits is filled by `uniform`.
    """
    rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
    slots = _allocate_slots(count, weights, rng)
    orders = {strategy: STRATEGIES[strategy](pool, rng) for strategy in sorted({*slots, SampleStrategy.UNIFORM})}
    remaining_ids = {trace.trace_id for trace in pool.traces}
    remaining = min(count, len(remaining_ids))
    picks: list[SamplePick] = []
    for strategy in (*slots, *[SampleStrategy.UNIFORM] * count):
        ids = _next_pick(orders[strategy], remaining_ids, remaining)
        if ids:
            picks.append(SamplePick(strategy=strategy, traces=ids))
            remaining_ids.difference_update(ids)
            remaining -= len(ids)
    return SampleReport(seed=seed, count=count, weights=dict(weights), picks=tuple(picks))


def sampled_traces(report: SampleReport, window: Sequence[Trace]) -> list[Trace]:
    """The sampled traces of a window, in the order of the picks."""
    by_id = {trace.trace_id: trace for trace in window}
    return [by_id[trace_id] for pick in report.picks for trace_id in pick.traces]


def sampled_pairs(report: SampleReport, window: Sequence[Trace]) -> list[tuple[Trace, Trace]]:
    """The sampled pairs, the better rewarded trace first."""
    by_id = {trace.trace_id: trace for trace in window}
    pairs = [[by_id[trace_id] for trace_id in pick.traces] for pick in report.picks if len(pick.traces) == 2]
    return [(better, worse) for better, worse in pairs]


def uniform(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """Uniformly at random."""
    for trace in rng.sample(list(pool.traces), len(pool.traces)):
        yield (trace,)


def recent(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """The newest first."""
    for trace in reversed(pool.traces):
        yield (trace,)


def suspicious(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """By the reward's percentile plus the mean absolute z-score of the surface features."""
    columns = [z_scores([one.values[name] for one in pool.features]) for name in pool.features[0].values]
    oddness = [fmean(abs(z) for z in row) for row in zip(*columns, strict=True)]
    rewards = _percentiles([trace.reward for trace in pool.traces])
    return _by_priority([reward + odd for reward, odd in zip(rewards, oddness, strict=True)], pool)


def disagreement(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """By the judge's uncertainty, plus how far criteria contradict each other, plus how far an audit contradicts."""
    uncertainty = [
        1.0 - min((c.confidence for c in t.criteria if c.confidence is not None), default=1.0) for t in pool.traces
    ]
    audit = [abs(pool.audit.get(trace.trace_id, trace.reward) - trace.reward) for trace in pool.traces]
    parts = zip(uncertainty, _criteria_conflict(pool.traces), audit, strict=True)
    return _by_priority([sum(part) for part in parts], pool)


def great_pairs(pool: SamplingPool, rng: random.Random) -> Iterator[Pick]:
    """Pairs for one prompt out of the best quarter; those that share the fewest words first."""
    by_reward = sorted(pool.traces, key=lambda trace: -trace.reward)
    threshold = by_reward[int(_GREAT_SHARE * len(by_reward))].reward
    great: defaultdict[str, list[Trace]] = defaultdict(list)
    for trace in by_reward:
        group = great[as_text(trace.prompt)]
        if trace.reward >= threshold and len(group) < _MAX_GREAT_PER_PROMPT:
            group.append(trace)
    vocabulary = {t.trace_id: frozenset(words(read_text(t.completion))) for group in great.values() for t in group}
    pairs = [pair for group in great.values() for pair in combinations(group, 2)]
    yield from sorted(pairs, key=lambda pair: _jaccard(*(vocabulary[trace.trace_id] for trace in pair)))


STRATEGIES: Mapping[SampleStrategy, Strategy] = {
    SampleStrategy.UNIFORM: uniform,
    SampleStrategy.RECENT: recent,
    SampleStrategy.SUSPICIOUS: suspicious,
    SampleStrategy.DISAGREEMENT: disagreement,
    SampleStrategy.GREAT_PAIRS: great_pairs,
}


def _allocate_slots(count: int, weights: Mapping[SampleStrategy, float], rng: random.Random) -> list[SampleStrategy]:
    """Systematic sampling: each strategy gets its share of the slots, rounded up or down by one random offset."""
    strategies = [strategy for strategy in sorted(weights) if weights[strategy] > 0.0]
    cumulative = list(accumulate(weights[strategy] for strategy in strategies))
    offset = rng.random()
    points = [(offset + n) / count * cumulative[-1] for n in range(count)]
    slots = [strategies[min(bisect_right(cumulative, point), len(strategies) - 1)] for point in points]
    rng.shuffle(slots)
    return slots


def _next_pick(order: Iterator[Pick], remaining_ids: set[str], remaining: int) -> tuple[str, ...]:
    """The ids of the next pick that fits and repeats no trace; empty if there is none."""
    if remaining == 0:
        return ()
    for pick in order:
        ids = tuple(trace.trace_id for trace in pick)
        if len(ids) <= remaining and remaining_ids.issuperset(ids):
            return ids
    return ()


def _by_priority(priorities: Sequence[float], pool: SamplingPool) -> Iterator[Pick]:
    """The highest priority first, of equal ones the older trace."""
    return iter([(pool.traces[i],) for i in sorted(range(len(priorities)), key=lambda i: -priorities[i])])


def _percentiles(values: Sequence[float]) -> list[float]:
    """Each value's rank, scaled to [0, 1]."""
    return [rank / max(1, len(values) - 1) for rank in ranks(values)]


def _criteria_conflict(traces: Sequence[Trace]) -> list[float]:
    """For each trace, the highest minus the lowest percentile of its criteria in the window; 0 with one."""
    scored: defaultdict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for index, trace in enumerate(traces):
        for criterion in trace.criteria:
            if criterion.score is not None:
                scored[trace.digest, criterion.id].append((index, criterion.score))
    percentiles: defaultdict[int, list[float]] = defaultdict(list)
    for scores in scored.values():
        for (index, _), percentile in zip(scores, _percentiles([score for _, score in scores]), strict=True):
            percentiles[index].append(percentile)
    return [max(percentiles[i]) - min(percentiles[i]) if i in percentiles else 0.0 for i in range(len(traces))]


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))
