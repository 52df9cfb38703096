"""The book held against Redis, and the processes' memory against a flat line. Pure.

What is allowed, since nothing better can be had:

- a trace without an answer, of an item that was asked for in a request that went without one (a killed replica,
  a client that gave up): it was scored, and a retry would have been answered from what is stored;
- an answer marked `degraded` that differs from what is stored, of an item that was asked for several times: while
  Redis is away, a replica sees neither what the other one has spooled nor what Redis has. One outcome is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import NamedTuple

from benchmarks.soak.answer_log import Answer, Book, Item, Key, Violations
from benchmarks.soak.monitor import Sample, Traced

MAX_RSS_SLOPE = 2.0
"""MB a minute that a replica may seem to grow: what a median over noisy samples of some minutes tells for sure."""
_FEWEST_SAMPLES = 30
"""A minute."""
_SETTLING_S = 10.0


@dataclass(slots=True)
class Kept:
    """What the comparison of book and Redis counted."""

    items: int = 0
    """Answered ones; one that nothing pins counts once for each rubric it was answered under."""
    traces: int = 0
    outcomes: int = 0
    answers_lost: int = 0
    """Traces of items whose answer nobody saw."""
    answered_otherwise: int = 0
    """Degraded answers that differ from the outcome kept."""
    pins: int = 0
    violations: Violations = field(default_factory=Violations)


def compare(book: Book, traces: Mapping[Key, Sequence[Traced]], outcomes: Mapping[str, Sequence[Traced]]) -> Kept:
    """Every answered item has one trace and one outcome, with the reward answered; a pin has one rubric."""
    kept = Kept(traces=sum(map(len, traces.values())), outcomes=sum(map(len, outcomes.values())), pins=len(book.pins))
    for key, item in book.items.items():
        kept.items += len({answer.digest for answer in item.answers}) if not item.pinned else bool(item.answers)
        _judge_item(key, item, traces.get(key, ()), kept)
    for key in traces.keys() - book.items.keys():
        kept.violations.note("a trace is of something that was asked", traces[key])
    _judge_outcomes(traces, outcomes, kept)
    for pin, digests in book.pins.items():
        if len(digests) > 1:
            kept.violations.note("one rubric a pin", f"{pin}: {sorted(digests)}")
    return kept


def _judge_item(key: Key, item: Item, traces: Sequence[Traced], kept: Kept) -> None:
    digests = [trace.digest for trace in traces]
    if len(digests) != len(set(digests)) or (item.pinned and len(digests) > 1):
        kept.violations.note("one trace an item", f"{key.hex()} {item} {traces}")
    if not traces:
        if item.answers:
            kept.violations.note("a trace of every answered item", f"{key.hex()} {item}")
        return
    if not item.answers:
        kept.answers_lost += 1
        if not item.lost:
            kept.violations.note("no trace without an answer", f"{key.hex()} {item} {traces}")
        return
    for answer in item.answers:
        if not _stands(answer, traces):
            kept.answered_otherwise += 1
            if not (answer.degraded and item.asked > 1):
                kept.violations.note("the reward answered is the one kept", f"{key.hex()} {item} {traces}")


def _stands(answer: Answer, traces: Sequence[Traced]) -> bool:
    return any((trace.reward, trace.digest) == (answer.reward, answer.digest) for trace in traces)


def _judge_outcomes(
    traces: Mapping[Key, Sequence[Traced]], outcomes: Mapping[str, Sequence[Traced]], kept: Kept
) -> None:
    traced = {trace.trace_id: trace for several in traces.values() for trace in several}
    for name, several in outcomes.items():
        if len(several) > 1:
            kept.violations.note("one outcome an item", several)
        if several[0] != traced.get(name):
            kept.violations.note("an outcome has its trace", f"{several[0]} {traced.get(name)}")
    for name in traced.keys() - outcomes.keys():
        kept.violations.note("a trace has its outcome", traced[name])


class Flatness(NamedTuple):
    """Memory of a replica (MB, and MB a minute) in the second half of its last life, in calm; None: too short.

    `descriptors` is the most it had open, ever.
    """

    samples: int
    rss_mb: float | None
    rss_slope: float | None
    descriptors: int


def flatness(samples: Sequence[Sample], replica: int) -> Flatness:
    """The slope is that of Theil and Sen: the median over all pairs of samples, which a few odd ones do not move."""
    last = [sample for sample in samples if sample.life[replica] == samples[-1].life[replica]] if samples else []
    middle = (last[0].at + last[-1].at) / 2 if last else 0.0
    calm = [sample for sample in _calm(samples) if sample in last and sample.at >= middle]
    rss = [(s.at / 60.0, mb) for s in calm if (mb := s.rss_mb[replica]) is not None]
    descriptors = max((count for s in samples if (count := s.descriptors[replica]) is not None), default=0)
    return Flatness(len(rss), median(mb for _, mb in rss) if rss else None, _slope(rss), descriptors)


def judge_flatness(found: Mapping[str, Flatness], violations: Violations, *, max_descriptors: int) -> None:
    """Note what grows, by replica; more than `max_descriptors` are not what its pools and its callers make up."""
    for name, flat in found.items():
        if flat.rss_slope is not None and flat.rss_slope > MAX_RSS_SLOPE:
            violations.note("memory lies flat", f"{name}: {flat.rss_slope:+.2f} MB a minute")
        if flat.descriptors > max_descriptors:
            violations.note("descriptors are bounded", f"{name}: {flat.descriptors}, at most {max_descriptors}")


def _calm(samples: Sequence[Sample]) -> list[Sample]:
    """Those with nothing away, now or a little before."""
    calm = []
    settled = 0.0
    for sample in samples:
        if sample.away:
            settled = sample.at + _SETTLING_S
        elif sample.at >= settled:
            calm.append(sample)
    return calm


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    if len(points) < _FEWEST_SAMPLES:
        return None
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2))
