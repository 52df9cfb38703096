"""What goes on behind the requests: the probe of a Redis that is away, and what it is told once it is back.

First the pins made up meanwhile, then requests go to Redis again, then the spool is replayed. A replay may be
repeated from any point: the first writer of an outcome wins, and a segment is deleted when all of it is acknowledged.
"""

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence

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
from services.reward.persistence.replica_cache import ActiveRubricCache, PinCache
from services.reward.persistence.spool import Segment, Spool
from services.reward.persistence.spool_segments import Entry, StoredRubric
from services.reward.persistence.spool_segments import Line as SpoolLine

log = logging.getLogger(__name__)

_TICK_S = 1.0
_PROBE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_BATCH_ENTRIES = 64
_BATCH_BYTES = 4_000_000


class Recovery:
    """Runs in the background of one replica. `prepare` is what the service needs of Redis once."""

    def __init__(
        self,
        *,
        redis: Redis,
        circuit: CircuitBreaker,
        store: RubricStore,
        trace_log: TraceLog,
        pins: PinCache,
        actives: ActiveRubricCache,
        spool: Spool | None,
        metrics: RewardMetrics,
        poll_s: float,
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        self._redis = redis
        self._circuit = circuit
        self._store = store
        self._log = trace_log
        self._pins = pins
        self._actives = actives
        self._spool = spool
        self._metrics = metrics
        self._poll_s = poll_s
        self._prepare = prepare
        self._prepared = False

    async def start(self) -> None:
        """Take over what earlier processes left, and prepare; a Redis that is away is prepared when it comes."""
        await self.adopt()
        try:
            await self._prepare_once()
        except RedisError as error:
            self._circuit.open(error)

    async def run(self) -> None:
        """Until cancelled: notice when Redis is back, replay, take over what dead processes left, check the actives."""
        loop = asyncio.get_running_loop()
        next_poll, next_replay, pause = 0.0, 0.0, _TICK_S
        while True:
            await self._circuit.wait_until_open(_TICK_S)
            if self._circuit.is_open and not await self._come_back():
                await asyncio.sleep(_PROBE_S)
                continue
            try:
                await self.adopt()
                if loop.time() >= next_replay:
                    done = await self._replay()
                    pause = _TICK_S if done else min(_LONGEST_PAUSE_S, 2 * pause)
                    next_replay = loop.time() + (0.0 if done else pause)
                if loop.time() >= next_poll:
                    next_poll = loop.time() + self._poll_s
                    await self._actives.poll()
            except RedisUnavailable:
                await asyncio.sleep(_PROBE_S)
            except Exception:
                log.exception("the recovery from a Redis outage does not get on; it is tried again")
                next_replay = loop.time() + _LONGEST_PAUSE_S

    async def adopt(self) -> None:
        """Take over the spools of dead processes, with the pins and rubrics that stand in them."""
        if self._spool is None:
            return
        lineages: Sequence[SpoolLine] = await self._spool.adopt()
        for lineage in lineages:
            if isinstance(lineage, StoredRubric):
                self._store.add_to_cache(lineage.task, Rubric.model_validate_json(lineage.rubric))
            elif lineage.pin:
                pin = _pin_of(lineage)
                assert pin.requested is not None
                self._actives.observe(pin.lineage, pin.requested)
                if lineage.made_up:
                    self._pins.choose_provisional(pin.key, pin.lineage, pin.requested, pin.ttl_s)
                else:
                    self._pins.set(pin.key, pin.requested, pin.ttl_s)

    async def _come_back(self) -> bool:
        """Close the circuit if Redis can be written to and has been told the pins made up."""
        try:
            async with asyncio.timeout(_PROBE_S):
                await check_writable(self._redis)
            await self._prepare_once()
            while pins := self._pins.provisional(_BATCH_ENTRIES):
                await self._settle(pins)
        except Exception as error:  # any: the circuit stays open, and the next probe says why
            log.info("Redis is still away", extra={"detail": f"{type(error).__name__}: {error}"})
            return False
        self._circuit.close()
        return True

    async def _prepare_once(self) -> None:
        if not self._prepared:
            await self._prepare()
            self._prepared = True

    async def _settle(self, pins: Sequence[PinRequest]) -> dict[str, RubricPointer]:
        """Put pins where they are free; what each of them holds by then, by key."""
        holds: dict[str, RubricPointer] = {}
        by_task: defaultdict[str, list[PinRequest]] = defaultdict(list)
        for pin in pins:
            by_task[pin.lineage.task].append(pin)
        for task, of_task in by_task.items():
            for digest in {pin.requested.digest for pin in of_task if pin.requested is not None}:
                await self._have_rubric(task, digest)
            for pin, state in zip(of_task, await self._log.resolve(task, of_task), strict=True):
                assert state.active is not None
                holds[pin.key] = state.active
                self._pins.set(pin.key, state.active, pin.ttl_s)
        return holds

    async def _have_rubric(self, task: str, digest: str) -> None:
        """A Redis that lost its data must not hold a pin to a rubric that it does not have."""
        cached = self._store.cached(task, digest)
        if cached is not None:
            await self._store.put(task, cached)

    async def _replay(self) -> bool:
        """Everything in the spool; whether Redis took all of it. Raises `RedisUnavailable`."""
        if self._spool is None or self._spool.empty:
            return True
        full: set[str] = set()
        for segment in await self._spool.sealed():
            for batch in _batches(await self._spool.pending(segment)):
                if batch[0].task not in full:
                    await self._replay_batch(self._spool, segment, batch, full)
            if not segment.pending:
                self._spool.drop(segment)
        return not full

    async def _replay_batch(self, spool: Spool, segment: Segment, batch: list[Entry], full: set[str]) -> None:
        task = batch[0].task
        try:
            await self._circuit.call(lambda: self._append(task, batch))
        except Overloaded:
            log.warning("the spool waits: the trace log is at its cap", extra={"task": task})
            full.add(task)
            return
        spool.acknowledge(segment, batch)
        self._metrics.replayed(len(batch))

    async def _append(self, task: str, batch: Sequence[Entry]) -> None:
        """Store each outcome under the digest that its pin holds: that is where a retry looks for it."""
        pins = {entry.pin: _pin_of(entry) for entry in batch if entry.pin}
        holds = await self._settle(list(pins.values()))
        rows = []
        for entry in batch:
            active = holds[entry.pin] if entry.pin else RubricPointer.parse(entry.rubric)
            rows.append((item_identity(entry.base, active.digest), entry.outcome, entry.trace))
        await self._log.append_json(task, rows)


def _pin_of(entry: Entry) -> PinRequest:
    active = RubricPointer.parse(entry.rubric)
    return PinRequest(entry.pin, LineageKey(entry.task, entry.lineage, active.scope), active, entry.ttl_s, ())


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries of one task, few enough for one call."""
    for _, run in itertools.groupby(sorted(entries, key=lambda entry: entry.task), key=lambda entry: entry.task):
        batch: list[Entry] = []
        size = 0
        for entry in run:
            size += len(entry.outcome) + len(entry.trace)
            if batch and (len(batch) == _BATCH_ENTRIES or size > _BATCH_BYTES):
                yield batch
                batch, size = [], len(entry.outcome) + len(entry.trace)
            batch.append(entry)
        if batch:
            yield batch
