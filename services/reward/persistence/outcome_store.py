"""Pins and outcomes of each batch: in Redis, or during an outage in this replica's memory and disk spool.

Two rules keep I5. An item that is in the spool is answered from the spool, whatever Redis holds. An item scored under
a provisional pin goes through the spool, whose replay stores it under the digest that Redis holds for the pin: there
a retry looks for it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from redis.exceptions import RedisError

from regrade.contracts import Flag, OnOutage
from services.kit.errors import Overloaded
from services.kit.results import ItemResult
from services.kit.store.rubric_store import RubricPointer
from services.kit.store.trace_log import OutcomeRecord, PinRequest, PinState, TraceLog, first_stored
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable
from services.reward.persistence.replica_cache import ActiveRubricCache, PinCache
from services.reward.persistence.spool import Spool
from services.reward.persistence.spool_file import SpoolEntry


class AppendResult(NamedTuple):
    """The outcomes that count, one a record; `degraded` when they are on this replica's disk only."""

    results: list[ItemResult]
    degraded: bool


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeStore:
    """Fixes pins and stores outcomes. Without a spool, each batch fails during an outage (`RedisUnavailable`)."""

    log: TraceLog
    circuit: CircuitBreaker
    pins: PinCache
    actives: ActiveRubricCache
    spool: Spool | None
    unwritable: set[str] = field(default_factory=set)
    """Tasks whose last write Redis refused."""

    async def resolve(self, task: str, pins: Sequence[PinRequest], on_outage: OnOutage) -> list[PinState]:
        """Read or set every pin and fetch stored outcomes. Raises `RedisUnavailable`, `Overloaded`."""
        spooled: Mapping[str, ItemResult] = {}
        if self.spool is not None:
            spooled = await self.spool.outcomes(task, [base for pin in pins for base in pin.item_bases])
        try:
            with self.circuit.guard():
                states = await self.log.resolve(task, [pin._replace(known=self.pins.get(pin.key)) for pin in pins])
        except RedisUnavailable:
            if self.spool is None or on_outage is not OnOutage.SERVE:
                raise
            states = [self._state_without_redis(pin) for pin in pins]
        else:
            for pin, state in zip(pins, states, strict=True):
                if state.active is not None:
                    self.pins.set(pin.key, state.active, state.ttl_s)
                    self.actives.observe(pin.lineage, state.active)
        if not spooled:
            return states
        return [_with_spooled(pin, state, spooled) for pin, state in zip(pins, states, strict=True)]

    async def refuse_if_unwritable(self, task: str, on_outage: OnOutage) -> None:
        """Refuse new items before the judge is called for outcomes that could not be stored.

        After a failed write, a cheap read tells whether the next one can succeed. Raises `RedisError`, `Overloaded`,
        `Unavailable`.
        """
        try:
            if self.circuit.is_open:
                raise self.circuit.unavailable()
            if task in self.unwritable:
                with self.circuit.guard():
                    await self.log.check_room(task)
                self.unwritable.discard(task)
        except (RedisUnavailable, Overloaded):
            if self.spool is None or on_outage is not OnOutage.SERVE:
                raise
            self.spool.refuse_if_full()

    async def append(self, task: str, records: Sequence[OutcomeRecord], on_outage: OnOutage) -> AppendResult:
        """Store outcomes and traces; the first writer wins. Raises `RedisUnavailable`, `Overloaded`, `Unavailable`."""
        if self.spool is not None and any(Flag.UNPINNED in record.result.flags for record in records):
            return await self._append_to_spool(self.spool, task, records)
        try:
            with self.circuit.guard():
                return AppendResult(await self.log.append(task, records), degraded=False)
        except (RedisError, Overloaded) as error:
            self.unwritable.add(task)
            if not isinstance(error, RedisUnavailable | Overloaded):
                raise
            if self.spool is None or on_outage is not OnOutage.SERVE:
                raise
            return await self._append_to_spool(self.spool, task, records)

    async def _append_to_spool(self, spool: Spool, task: str, records: Sequence[OutcomeRecord]) -> AppendResult:
        digests = dict.fromkeys(record.result.rubric.digest for record in records)
        rubrics = await asyncio.gather(*(self.actives.rubric(task, digest) for digest in digests))
        replies = await spool.write([_spool_entry(task, record) for record in records], [(task, r) for r in rubrics])
        results = [first_stored(record, reply) for record, reply in zip(records, replies, strict=True)]
        return AppendResult(results, degraded=True)

    def _state_without_redis(self, pin: PinRequest) -> PinState:
        """The pin as this replica read it, else a provisional one: the requested rubric, or the last active one."""
        outcomes = (None,) * len(pin.item_bases)
        active = self.pins.get(pin.key)
        if active is not None:
            conflict = pin.requested is not None and pin.requested.digest != active.digest
            return PinState(active, conflict, outcomes, degraded=True)
        active = pin.requested or self.actives.last_known(pin.lineage)
        if active is None:
            raise self.circuit.unavailable(f"this replica has never served {pin.lineage.label} of {pin.lineage.task}")
        provisional = self.pins.choose_provisional(pin.key, pin.lineage, active, pin.ttl_s)
        return PinState(pin.requested or provisional, False, outcomes, unpinned=True, degraded=True)


def _with_spooled(pin: PinRequest, state: PinState, spooled: Mapping[str, ItemResult]) -> PinState:
    if state.conflict or state.active is None:
        return state
    outcomes = tuple(spooled.get(base, stored) for base, stored in zip(pin.item_bases, state.outcomes, strict=True))
    degraded = state.degraded or any(base in spooled for base in pin.item_bases)
    return state._replace(outcomes=outcomes, degraded=degraded)


def _spool_entry(task: str, record: OutcomeRecord) -> SpoolEntry:
    identity, outcome, trace = record.to_json()
    ref = record.result.rubric
    return SpoolEntry(
        task=task,
        lineage=ref.lineage,
        base=identity.rpartition(".")[0],
        rubric=str(RubricPointer(ref.digest, ref.version, ref.scope)),
        pin=record.pin.key if record.pin is not None else "",
        provisional=Flag.UNPINNED in record.result.flags,
        ttl_s=record.pin.ttl_s if record.pin is not None else 0,
        outcome=outcome,
        trace=trace,
        time=time.time(),
    )
