"""The background loop of a replica: probes an unavailable Redis, replays the spool, refreshes the active rubrics.

When Redis accepts writes again it first gets the provisional pins, then the requests, then the spool. A replay may be
repeated from any point, because the first writer of an outcome wins.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from redis.asyncio import Redis
from redis.exceptions import RedisError

from regrade.contracts import Rubric
from services.kit.errors import Overloaded
from services.kit.store.keys import LineageKey
from services.kit.store.redis import check_writable
from services.kit.store.rubric_store import RubricPointer, RubricStore
from services.kit.store.trace_log import PinRequest, TraceLog
from services.reward.items.identity import item_identity
from services.reward.metrics import RewardMetrics
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable
from services.reward.persistence.fence_key import FenceKey
from services.reward.persistence.replica_cache import ActiveRubricCache, PinCache
from services.reward.persistence.spool import Spool
from services.reward.persistence.spool_file import SpoolEntry, SpoolFile

log = logging.getLogger(__name__)

_TICK_S = 1.0
_PROBE_S = 1.0
_MAX_PAUSE_S = 30.0
_PINS_A_CALL = 64


@dataclass(slots=True, kw_only=True, eq=False)
class Recovery:
    """Runs in the background of one replica. `prepare` is called whenever Redis answers again."""

    redis: Redis
    circuit: CircuitBreaker
    store: RubricStore
    trace_log: TraceLog
    pins: PinCache
    actives: ActiveRubricCache
    fence_key: FenceKey
    spool: Spool | None
    metrics: RewardMetrics
    poll_s: float
    prepare: Callable[[], Awaitable[None]]

    async def start(self) -> None:
        """Adopt the spools of dead processes, and prepare; without Redis, `run` prepares when it answers."""
        await self.adopt()
        try:
            await self.prepare()
        except RedisError as error:
            self.circuit.open(error)

    async def run(self) -> None:
        """Loop until cancelled: probe an unavailable Redis, else adopt spools, replay, refresh active rubrics."""
        loop = asyncio.get_running_loop()
        next_poll, next_replay, pause = 0.0, 0.0, _TICK_S
        while True:
            await self.circuit.wait_until_open(_TICK_S)
            if self.spool is not None:
                await self.spool.probe()
            if self.circuit.is_open and not await self._reconnect():
                await asyncio.sleep(_PROBE_S)
                continue
            try:
                await self.adopt()
                if loop.time() >= next_replay:
                    done = await self._replay()
                    pause = _TICK_S if done else min(_MAX_PAUSE_S, 2 * pause)
                    next_replay = loop.time() + (0.0 if done else pause)
                if loop.time() >= next_poll:
                    next_poll = loop.time() + self.poll_s
                    await self.actives.poll()
                    await self.circuit.call(lambda: self.fence_key.load(self.redis))
                    await self._measure_trace_logs()
            except RedisUnavailable:
                await asyncio.sleep(_PROBE_S)
            except Exception:
                log.exception("the recovery from a Redis outage failed; retrying")
                next_replay = loop.time() + _MAX_PAUSE_S

    async def _measure_trace_logs(self) -> None:
        for task in self.actives.tasks:
            size = await self.circuit.call(partial(self.trace_log.size, task))
            self.metrics.trace_log(task, size.entries, size.bytes)

    async def adopt(self) -> None:
        """Take over the spools of dead processes, with their pins and rubrics."""
        if self.spool is None:
            return
        adopted = await self.spool.adopt()
        for task, rubric in adopted.rubrics:
            self.store.add_to_cache(task, Rubric.model_validate_json(rubric))
        for entry in adopted.pins:
            pin, active = _pin_of(entry), RubricPointer.parse(entry.rubric)
            self.actives.observe(pin.lineage, active)
            if entry.provisional:
                self.pins.choose_provisional(pin.key, pin.lineage, active, pin.ttl_s)
            else:
                self.pins.set(pin.key, active, pin.ttl_s)

    async def _reconnect(self) -> bool:
        """Close the circuit once Redis accepts writes and has the provisional pins; whether it did."""
        try:
            async with asyncio.timeout(_PROBE_S):
                await check_writable(self.redis)
            await self.prepare()
            while pins := self.pins.provisional(_PINS_A_CALL):
                await self._send_pins(pins)
        except Exception as error:  # whatever it is, the circuit stays open, and the next probe logs it again
            log.info("Redis is still unavailable", extra={"detail": f"{type(error).__name__}: {error}"})
            return False
        self.circuit.close()
        return True

    async def _send_pins(self, pins: Sequence[PinRequest]) -> dict[str, RubricPointer]:
        """Set pins where they are not set; what each of them holds then, by key."""
        held: dict[str, RubricPointer] = {}
        by_task: defaultdict[str, list[PinRequest]] = defaultdict(list)
        for pin in pins:
            by_task[pin.lineage.task].append(pin)
        for task, pins_of_task in by_task.items():
            for digest in {pin.requested.digest for pin in pins_of_task if pin.requested is not None}:
                await self._restore_rubric(task, digest)
            for pin, state in zip(pins_of_task, await self.trace_log.resolve(task, pins_of_task), strict=True):
                assert state.active is not None
                held[pin.key] = state.active
                self.pins.set(pin.key, state.active, state.ttl_s)
        return held

    async def _restore_rubric(self, task: str, digest: str) -> None:
        """Store a rubric again: a Redis that lost its data must not hold a pin to a rubric that it does not have."""
        cached = self.store.cached(task, digest)
        if cached is not None:
            await self.store.put(task, cached)

    async def _replay(self) -> bool:
        """Send the whole spool to Redis; whether Redis took all of it. Raises `RedisUnavailable`."""
        if self.spool is None or not self.spool.entries:
            return True
        full_tasks: set[str] = set()
        for file in await self.spool.sealed():
            if await self._replay_file(self.spool, file, full_tasks):
                await self.spool.drop(file)
        return not full_tasks

    async def _replay_file(self, spool: Spool, file: SpoolFile, full_tasks: set[str]) -> bool:
        """Whether Redis took all of a file; the tasks whose trace log is at its cap are added to `full_tasks`."""
        complete = True
        batch, position = await spool.batch(file, 0)
        while batch:
            by_task: defaultdict[str, list[SpoolEntry]] = defaultdict(list)
            for entry in batch:
                by_task[entry.task].append(entry)
            for task, entries in by_task.items():
                if task not in full_tasks and await self._replay_entries(task, entries):
                    await spool.acknowledge(file, entries)
                    self.metrics.replayed(len(entries))
                else:
                    full_tasks.add(task)
                    complete = False
            batch, position = await spool.batch(file, position)
        return complete

    async def _replay_entries(self, task: str, entries: Sequence[SpoolEntry]) -> bool:
        try:
            await self.circuit.call(lambda: self._append(task, entries))
        except Overloaded:
            log.warning("the spool waits: the trace log is at its cap", extra={"task": task})
            return False
        return True

    async def _append(self, task: str, entries: Sequence[SpoolEntry]) -> None:
        """Store each outcome under the digest that its pin holds in Redis: that is where a retry looks for it."""
        pins = {entry.pin: _pin_of(entry) for entry in entries if entry.pin}
        held = await self._send_pins(list(pins.values()))
        records = []
        for entry in entries:
            active = held[entry.pin] if entry.pin else RubricPointer.parse(entry.rubric)
            records.append((item_identity(entry.base, active.digest), entry.outcome, entry.trace))
        await self.trace_log.append_json(task, records)


def _pin_of(entry: SpoolEntry) -> PinRequest:
    active = RubricPointer.parse(entry.rubric)
    return PinRequest(entry.pin, LineageKey(entry.task, entry.lineage, active.scope), active, entry.ttl_s, ())
