"""Which traces the meta-judge gets to see. Pure, and reproducible from the seed in the lineage."""

import random
from collections.abc import Sequence
from statistics import fmean, pstdev

from regrade.contracts import Trace
from services.meta_reward.evidence import features


def choose(traces: Sequence[Trace], count: int, seed: str) -> list[Trace]:
    """`count` traces: half suspicious (well rewarded for their odd surface), a quarter recent, the rest random."""
    rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
    remaining = {trace.trace_id: trace for trace in traces}
    chosen: list[Trace] = []
    suspicious = [traces[i] for i in _by_suspicion(traces)]
    recent = sorted(traces, key=lambda trace: trace.time, reverse=True)
    shuffled = rng.sample(list(traces), len(traces))
    for pool, share in ((suspicious, (count + 1) // 2), (recent, count // 4), (shuffled, count)):
        for trace in pool:
            if share == 0 or len(chosen) == count:
                break
            if remaining.pop(trace.trace_id, None) is not None:
                chosen.append(trace)
                share -= 1
    return chosen


def _by_suspicion(traces: Sequence[Trace]) -> list[int]:
    """Indices by reward rank plus oddness (mean absolute z-score of the surface features), highest first."""
    rows = [features(trace) for trace in traces]
    centre = {name: fmean(row[name] for row in rows) for name in rows[0]}
    width = {name: pstdev([row[name] for row in rows]) or 1.0 for name in rows[0]}
    order = sorted(range(len(traces)), key=lambda i: traces[i].reward)
    rank = {index: position / max(1, len(traces) - 1) for position, index in enumerate(order)}
    oddness = [fmean(abs(row[n] - centre[n]) / width[n] for n in row) for row in rows]
    return sorted(range(len(traces)), key=lambda i: rank[i] + oddness[i], reverse=True)
