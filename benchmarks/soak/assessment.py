"""Compares the recorded answers with Redis, and checks that the replicas' memory does not grow. Pure.

Allowed, because the design cannot prevent it:

- a trace without an answer, if a request with its item got no answer (a killed replica, a client that gave up): the
  item was scored, and a retry would have been answered from the store;
- an answer marked `degraded` that differs from the stored reward, if its item was requested more than once: while
  Redis is unreachable, a replica sees neither the other's spool nor the outcomes in Redis. One outcome is stored;
- after Redis was emptied, a second trace of an item that is sent again, and another rubric of a pin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import NamedTuple

from benchmarks.soak.answer_log import AnswerLog, ItemAnswer, ItemHistory, Key, Violations
from benchmarks.soak.monitor import MonitorSample, StoredReward

MAX_RSS_SLOPE = 2.0
"""Bound of a replica's growth in MB per minute: the resolution of a median over a few minutes of noisy samples."""
_MIN_SAMPLES = 30
"""One minute."""
_SETTLING_S = 10.0
"""After an outage, memory is still elevated."""


@dataclass(slots=True)
class Assessment:
    """Counts of the comparison with Redis."""

    items: int = 0
    """Answered items; an unpinned one counts once for each rubric that scored it."""
    traces: int = 0
    outcomes: int = 0
    answers_lost: int = 0
    """Traces of items without a recorded answer."""
    differing_answers: int = 0
    """Degraded answers that differ from the stored outcome."""
    pins: int = 0
    violations: Violations = field(default_factory=Violations)


def assess(
    answers: AnswerLog,
    traces: Mapping[Key, Sequence[StoredReward]],
    outcomes: Sequence[Mapping[str, Sequence[StoredReward]]],
) -> Assessment:
    """Check that every answered item has one trace and outcome with the answered reward, and every pin one rubric.

    `outcomes` are those of each epoch, before and after Redis was emptied.
    """
    assessment = Assessment(
        traces=sum(map(len, traces.values())),
        outcomes=sum(len(rewards) for stored in outcomes for rewards in stored.values()),
        pins=len(answers.pins),
    )
    for key, item in answers.items.items():
        assessment.items += len({answer.digest for answer in item.answers}) if not item.pinned else bool(item.answers)
        _check_item(key, item, traces.get(key, ()), assessment)
    for key in traces.keys() - answers.items.keys():
        assessment.violations.add("every trace has a request", traces[key])
    for epoch, stored in enumerate(outcomes):
        _check_outcomes(epoch, traces, stored, assessment)
    for pin, digests in answers.pins.items():
        if len(digests) > 1:
            assessment.violations.add("one rubric per pin", f"{pin}: {sorted(digests)}")
    return assessment


def _check_item(key: Key, item: ItemHistory, traces: Sequence[StoredReward], assessment: Assessment) -> None:
    for epoch in {trace.epoch for trace in traces}:
        digests = [trace.digest for trace in traces if trace.epoch == epoch]
        if len(digests) == len(set(digests)) and (len(digests) == 1 or not item.pinned):
            continue
        assessment.violations.add("one trace per item", f"{key.hex()} {item} {traces}")
    if not traces:
        if item.answers:
            assessment.violations.add("every answered item has a trace", f"{key.hex()} {item}")
        return
    if not item.answers:
        assessment.answers_lost += 1
        if not item.answer_lost:
            assessment.violations.add("every trace has an answer", f"{key.hex()} {item} {traces}")
        return
    for answer in item.answers:
        if not _is_stored(answer, traces):
            assessment.differing_answers += 1
            if not (answer.degraded and item.requests > 1):
                assessment.violations.add("the answered reward is the stored one", f"{key.hex()} {item} {traces}")


def _is_stored(answer: ItemAnswer, traces: Sequence[StoredReward]) -> bool:
    return any((trace.reward, trace.digest) == (answer.reward, answer.digest) for trace in traces)


def _check_outcomes(
    epoch: int,
    traces: Mapping[Key, Sequence[StoredReward]],
    outcomes: Mapping[str, Sequence[StoredReward]],
    assessment: Assessment,
) -> None:
    traced = {trace.trace_id: trace for rewards in traces.values() for trace in rewards if trace.epoch == epoch}
    for name, rewards in outcomes.items():
        if len(rewards) > 1:
            assessment.violations.add("one outcome per item", rewards)
        if rewards[0] != traced.get(name):
            assessment.violations.add("every outcome has its trace", f"{rewards[0]} {traced.get(name)}")
    for name in traced.keys() - outcomes.keys():
        assessment.violations.add("every trace has its outcome", traced[name])


class MemoryTrend(NamedTuple):
    """Memory of a replica in the second half of its last process's lifetime, outages excluded.

    `rss_mb` is the median in MB, `rss_slope` in MB per minute; None if the lifetime is too short. `descriptors` is the
    largest number of open descriptors in any lifetime.
    """

    samples: int
    rss_mb: float | None
    rss_slope: float | None
    descriptors: int


def memory_trend(samples: Sequence[MonitorSample], replica: int) -> MemoryTrend:
    """The trend by the Theil-Sen estimator: the median slope over all pairs of samples, which is robust to outliers."""
    last = [s for s in samples if s.started_at[replica] == samples[-1].started_at[replica]]
    middle = (last[0].at + last[-1].at) / 2 if last else 0.0
    undisturbed = [sample for sample in _undisturbed(samples) if sample in last and sample.at >= middle]
    rss = [(s.at / 60.0, mb) for s in undisturbed if (mb := s.rss_mb[replica]) is not None]
    descriptors = max((count for s in samples if (count := s.descriptors[replica]) is not None), default=0)
    return MemoryTrend(len(rss), median(mb for _, mb in rss) if rss else None, _slope(rss), descriptors)


def check_memory(trends: Mapping[str, MemoryTrend], violations: Violations, *, max_descriptors: int) -> None:
    """Add violations for replicas whose memory grows, or that have more descriptors than pools and callers explain."""
    for name, trend in trends.items():
        if trend.rss_slope is not None and trend.rss_slope > MAX_RSS_SLOPE:
            violations.add("memory does not grow", f"{name}: {trend.rss_slope:+.2f} MB per minute")
        if trend.descriptors > max_descriptors:
            violations.add("descriptors are bounded", f"{name}: {trend.descriptors}, at most {max_descriptors}")


def _undisturbed(samples: Sequence[MonitorSample]) -> list[MonitorSample]:
    """Samples outside of outages and of the settling time after them."""
    undisturbed = []
    settled = 0.0
    for sample in samples:
        if sample.outage:
            settled = sample.at + _SETTLING_S
        elif sample.at >= settled:
            undisturbed.append(sample)
    return undisturbed


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    if len(points) < _MIN_SAMPLES:
        return None
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2))
