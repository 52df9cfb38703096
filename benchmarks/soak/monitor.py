"""What is seen from outside while it runs: memory and descriptors, throughput and latency, and the traces in Redis."""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import httpx
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.soak.answer_log import Book, Key, trace_key
from benchmarks.soak.faults import Faults
from benchmarks.soak.processes import Part, Parts
from benchmarks.soak.traffic import TASKS
from services.kit.store.keys import outcome_prefix, traces_key
from services.kit.store.redis import read_entries

SAMPLE_S = 2.0
_PAGE = 2_000
_DRAIN_S = 90.0


@dataclass(slots=True)
class Sample:
    """The two seconds before `at` (since the soak began): items a second, milliseconds a request, and each replica."""

    at: float
    items_s: float
    p50_ms: float | None
    p99_ms: float | None
    away: str
    life: list[float]
    """When each replica's present life began, since the soak began."""
    rss_mb: list[float | None]
    descriptors: list[int | None]

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


class Watch:
    """Takes a sample every two seconds."""

    def __init__(self, parts: Parts, book: Book, faults: Faults) -> None:
        self._parts = parts
        self._book = book
        self._faults = faults
        self.samples: list[Sample] = []

    async def run(self, began: float) -> None:
        """Until cancelled."""
        rewarded, seen, then = 0, 0, began
        while True:
            await asyncio.sleep(SAMPLE_S)
            if not self._faults.now:
                self._parts.check()
            now = time.monotonic()
            latencies = sorted(self._book.latencies_s[seen:])
            seen += len(latencies)
            processes = [_figures(part) for part in self._parts.replicas]
            self.samples.append(
                Sample(
                    at=now - began,
                    items_s=(self._book.rewarded - rewarded) / (now - then),
                    p50_ms=percentile_ms(latencies, 0.5),
                    p99_ms=percentile_ms(latencies, 0.99),
                    away=self._faults.now,
                    life=[part.born - began for part in self._parts.replicas],
                    rss_mb=[rss for rss, _ in processes],
                    descriptors=[count for _, count in processes],
                )
            )
            rewarded, then = self._book.rewarded, now


def percentile_ms(ordered: list[float], share: float) -> float | None:
    """Of seconds in ascending order; None of none."""
    return 1_000.0 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _figures(part: Part) -> tuple[float | None, int | None]:
    """Resident memory in MB and open descriptors."""
    try:
        process = psutil.Process(part.pid or 0)
        return process.memory_info().rss / 1e6, process.num_fds()
    except psutil.Error:
        return None, None


class Traced(NamedTuple):
    """What stands in a trace."""

    trace_id: str
    reward: float
    digest: str


class TraceReader:
    """Reads the trace log as it grows and trims it behind, as an archive would, so that Redis does not grow with it."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Redis = Redis.from_url(redis_url, decode_responses=True, socket_timeout=5.0)
        self._after = {traces_key(task): "0-0" for task in TASKS}
        self.traces: dict[Key, tuple[Traced, ...]] = {}
        self.purposes: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled, with a Redis that comes and goes."""
        while True:
            try:
                found = await self.read()
            except (RedisError, OSError):
                found = 0
            if found < _PAGE:
                await asyncio.sleep(0.5)

    async def read(self) -> int:
        """Take in what is new; how many traces that was."""
        count = 0
        for stream, after in list(self._after.items()):
            page = await read_entries(self._redis, stream, after=after, count=_PAGE)
            for number, fields in page:
                self._take(json.loads(fields["trace"]))
                self._after[stream] = number
            count += len(page)
            if page:
                await self._redis.xtrim(stream, minid=self._after[stream], approximate=True)
        return count

    async def outcomes(self) -> dict[str, list[Traced]]:
        """Every stored outcome, by its trace's id."""
        found: dict[str, list[Traced]] = {}
        for task in TASKS:
            keys: list[str] = []
            async for key in self._redis.scan_iter(match=f"{_literal(outcome_prefix(task))}*", count=_PAGE):
                keys.append(key)
            for start in range(0, len(keys), _PAGE):
                for text in await self._redis.mget(keys[start : start + _PAGE]):
                    told = json.loads(str(text))
                    traced = Traced(told["trace_id"], told["reward"], sys.intern(told["rubric"]["digest"]))
                    found.setdefault(traced.trace_id, []).append(traced)
        return found

    async def aclose(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    def _take(self, trace: dict[str, Any]) -> None:
        self.purposes[trace["purpose"]] += 1
        key = trace_key(trace)
        traced = Traced(trace["trace_id"], trace["reward"], sys.intern(trace["digest"]))
        self.traces[key] = (*self.traces.get(key, ()), traced)


async def drained(parts: Parts, reader: TraceReader) -> bool:
    """Wait until no replica has anything spooled and every trace is read; False when that takes too long."""
    deadline = time.monotonic() + _DRAIN_S
    async with httpx.AsyncClient(timeout=10.0) as http:
        while time.monotonic() < deadline:
            metrics = [(await http.get(f"{part.url}/metrics")).text for part in parts.replicas]
            waiting = [gauge(text, "regrade_spool_records") + gauge(text, "regrade_degraded_state") for text in metrics]
            if not any(waiting) and await reader.read() == 0:
                return True
            await asyncio.sleep(0.2)
    return False


def gauge(text: str, name: str) -> float:
    """A metric without labels."""
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def _literal(prefix: str) -> str:
    """A key's prefix as a glob that matches nothing else."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in prefix)
