"""Monitoring during the soak: memory, descriptors, throughput and latency; and the traces written to Redis."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import httpx
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.soak.answer_log import AnswerLog, Key, trace_key
from benchmarks.soak.processes import RestartableProcess, SoakStack
from benchmarks.soak.traffic import TASKS
from services.kit.store.keys import outcome_prefix, traces_key
from services.kit.store.redis import read_entries

SAMPLE_S = 2.0
_PAGE = 2_000
_DRAIN_S = 90.0


@dataclass(slots=True)
class MonitorSample:
    """The two seconds before `at` (seconds since the start): items per second, latency, and each replica's process."""

    at: float
    items_s: float
    p50_ms: float | None
    p99_ms: float | None
    outage: str
    """What is killed at the time, or ""."""
    started_at: list[float]
    """When each replica's process was started."""
    rss_mb: list[float | None]
    descriptors: list[int | None]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Monitor:
    """Takes a sample every `SAMPLE_S` seconds."""

    def __init__(self, stack: SoakStack, answers: AnswerLog, outage: Callable[[], str]) -> None:
        """`outage` names the current outage, or is ""."""
        self._stack = stack
        self._answers = answers
        self._outage = outage
        self.samples: list[MonitorSample] = []

    async def run(self, began: float) -> None:
        """Runs until cancelled."""
        rewarded, counted, then = 0, 0, began
        while True:
            await asyncio.sleep(SAMPLE_S)
            if not self._outage():
                self._stack.check()
            now = time.monotonic()
            latencies = sorted(self._answers.latencies_s[counted:])
            counted += len(latencies)
            processes = [_process_figures(part) for part in self._stack.replicas]
            self.samples.append(
                MonitorSample(
                    at=now - began,
                    items_s=(self._answers.rewarded - rewarded) / (now - then),
                    p50_ms=percentile_ms(latencies, 0.5),
                    p99_ms=percentile_ms(latencies, 0.99),
                    outage=self._outage(),
                    started_at=[part.started_at - began for part in self._stack.replicas],
                    rss_mb=[rss for rss, _ in processes],
                    descriptors=[count for _, count in processes],
                )
            )
            rewarded, then = self._answers.rewarded, now


def percentile_ms(ordered: list[float], share: float) -> float | None:
    """A percentile of latencies in seconds, in ascending order; None if there are none."""
    return 1_000.0 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _process_figures(part: RestartableProcess) -> tuple[float | None, int | None]:
    """Resident memory in MB and open descriptors."""
    try:
        process = psutil.Process(part.pid or 0)
        return process.memory_info().rss / 1e6, process.num_fds()
    except psutil.Error:
        return None, None


class StoredReward(NamedTuple):
    """The reward and rubric digest of a trace or outcome; `epoch` counts how often Redis has been emptied before."""

    trace_id: str
    reward: float
    digest: str
    epoch: int = 0


class TraceReader:
    """Reads the trace log as it grows and trims it, as the archive does, so that Redis does not grow."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Redis = Redis.from_url(redis_url, decode_responses=True, socket_timeout=5.0)
        self._after = {traces_key(task): "0-0" for task in TASKS}
        self.traces: dict[Key, tuple[StoredReward, ...]] = {}
        self.purposes: Counter[str] = Counter()
        self.epoch = 0
        self._past: list[dict[str, list[StoredReward]]] = []
        self._reading = asyncio.Lock()

    async def begin_epoch(self, primary_url: str) -> None:
        """Read everything that the primary, whose writes are paused, holds; it will then be emptied."""
        async with self._reading:
            through_name, self._redis = self._redis, Redis.from_url(primary_url, decode_responses=True)
            try:
                while await self._read(trim=False):
                    pass
                self._past.append(await self._outcomes())
            finally:
                await self._redis.aclose()
                self._redis = through_name
            self.epoch += 1

    async def run(self) -> None:
        """Runs until cancelled, also while Redis is down."""
        while True:
            try:
                count = await self.read()
            except (RedisError, OSError):
                count = 0
            if count < _PAGE:
                await asyncio.sleep(0.5)

    async def read(self) -> int:
        """Read the new traces; returns their number."""
        async with self._reading:
            return await self._read()

    async def _read(self, *, trim: bool = True) -> int:
        count = 0
        for stream, after in list(self._after.items()):
            page = await read_entries(self._redis, stream, after=after, count=_PAGE)
            for number, fields in page:
                self._add(json.loads(fields["trace"]))
                self._after[stream] = number
            count += len(page)
            if page and trim:
                await self._redis.xtrim(stream, minid=self._after[stream], approximate=True)
        return count

    async def outcomes(self) -> list[dict[str, list[StoredReward]]]:
        """All stored outcomes by trace id, for each epoch."""
        return [*self._past, await self._outcomes()]

    async def _outcomes(self) -> dict[str, list[StoredReward]]:
        by_trace: dict[str, list[StoredReward]] = {}
        for task in TASKS:
            keys: list[str] = []
            async for key in self._redis.scan_iter(match=f"{_literal(outcome_prefix(task))}*", count=_PAGE):
                keys.append(key)
            for start in range(0, len(keys), _PAGE):
                for text in await self._redis.mget(keys[start : start + _PAGE]):
                    outcome = json.loads(str(text))
                    stored = StoredReward(
                        outcome["trace_id"], outcome["reward"], sys.intern(outcome["rubric"]["digest"]), self.epoch
                    )
                    by_trace.setdefault(stored.trace_id, []).append(stored)
        return by_trace

    async def aclose(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    def _add(self, trace: dict[str, Any]) -> None:
        self.purposes[trace["purpose"]] += 1
        key = trace_key(trace)
        stored = StoredReward(trace["trace_id"], trace["reward"], sys.intern(trace["digest"]), self.epoch)
        self.traces[key] = (*self.traces.get(key, ()), stored)


async def wait_until_drained(stack: SoakStack, reader: TraceReader) -> bool:
    """Wait until all spools are empty and all traces are read; False if that takes longer than `_DRAIN_S`."""
    deadline = time.monotonic() + _DRAIN_S
    async with httpx.AsyncClient(timeout=10.0) as http:
        while time.monotonic() < deadline:
            metrics = [(await http.get(f"{part.url}/metrics")).text for part in stack.replicas]
            pending = [gauge(text, "regrade_spool_records") + gauge(text, "regrade_degraded_state") for text in metrics]
            if not any(pending) and await reader.read() == 0:
                return True
            await asyncio.sleep(0.2)
    return False


def gauge(text: str, name: str) -> float:
    """The value of a metric without labels."""
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def _literal(prefix: str) -> str:
    """A key prefix with its glob characters escaped."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in prefix)
