"""Between a batch and Redis: pins and outcomes from Redis while it answers, from this replica while it is away.

Two rules keep I5 here. An item that is in the spool is answered from it, whatever Redis says by then. And an item
scored under a pin that this replica made up goes through the spool, whose replay stores it under the digest that
Redis holds for the pin: where a retry will look for it.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from regrade.contracts import Flag, OnOutage
from services.kit.errors import Overloaded
from services.kit.results import ItemResult
from services.kit.store.rubric_store import RubricPointer
from services.kit.store.trace_log import (
    TRACE_LOG_FULL,
    OutcomeRecord,
    PinRequest,
    PinState,
    TraceLog,
    first_stored,
)
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable
from services.reward.persistence.replica_cache import ActiveRubricCache, PinCache
from services.reward.persistence.spool import Spool
from services.reward.persistence.spool_segments import Entry


class AppendResult(NamedTuple):
    """The outcomes that count, one a record, and whether they rest on this replica's disk alone."""

    results: list[ItemResult]
    degraded: bool


class OutcomeStore:
    """Fixes pins and stores outcomes. Without a spool, an outage makes each batch fail (`RedisUnavailable`)."""

    def __init__(
        self, log: TraceLog, circuit: CircuitBreaker, pins: PinCache, actives: ActiveRubricCache, spool: Spool | None
    ) -> None:
        self._log = log
        self._circuit = circuit
        self._pins = pins
        self._actives = actives
        self._spool = spool

    def serves_degraded(self, on_outage: OnOutage) -> bool:
        """Whether a batch is served while Redis is away."""
        return self._spool is not None and on_outage is OnOutage.SERVE

    async def resolve(self, task: str, pins: Sequence[PinRequest], on_outage: OnOutage) -> list[PinState]:
        """Fix or read every pin and fetch known outcomes. Raises `RedisUnavailable`, `Overloaded`."""
        held = [tuple(self._held(task, base) for base in pin.item_bases) for pin in pins]
        try:
            with self._circuit.guard():
                states = await self._log.resolve(task, pins)
        except RedisUnavailable:
            if not self.serves_degraded(on_outage):
                raise
            states = [self._without_redis(pin) for pin in pins]
            self._refuse_what_would_not_fit(held)
        else:
            for pin, state in zip(pins, states, strict=True):
                if state.active is not None:
                    self._pins.set(pin.key, state.active, pin.ttl_s)
                    self._actives.observe(pin.lineage, state.active)
        return [_with_spooled(state, outcomes) for state, outcomes in zip(states, held, strict=True)]

    async def append(self, task: str, records: Sequence[OutcomeRecord], on_outage: OnOutage) -> AppendResult:
        """Keep outcomes and traces, first writer wins. Raises `RedisUnavailable`, `Overloaded`, `Unavailable`."""
        if self._spool is not None and any(Flag.UNPINNED in record.result.flags for record in records):
            return await self._to_spool(self._spool, task, records)
        try:
            with self._circuit.guard():
                return AppendResult(await self._log.append(task, records), degraded=False)
        except (RedisUnavailable, Overloaded) as error:
            if isinstance(error, Overloaded) and error.code != TRACE_LOG_FULL:
                raise
            if self._spool is None or on_outage is not OnOutage.SERVE:
                raise
            return await self._to_spool(self._spool, task, records)

    async def _to_spool(self, spool: Spool, task: str, records: Sequence[OutcomeRecord]) -> AppendResult:
        digests = dict.fromkeys(record.result.rubric.digest for record in records)
        rubrics = await asyncio.gather(*(self._actives.rubric(task, digest) for digest in digests))
        replies = await spool.write([_entry(task, record) for record in records], [(task, r) for r in rubrics])
        results = [first_stored(record, reply) for record, reply in zip(records, replies, strict=True)]
        return AppendResult(results, degraded=True)

    def _without_redis(self, pin: PinRequest) -> PinState:
        """The pin as this replica knows it, else as it makes it up: what is asked for, else what was last active."""
        none = (None,) * len(pin.item_bases)
        told = self._pins.get(pin.key)
        if told is not None:
            return PinState(
                told, pin.requested is not None and pin.requested.digest != told.digest, none, degraded=True
            )
        active = pin.requested or self._actives.last_known(pin.lineage)
        if active is None:
            raise RedisUnavailable(
                f"Redis is unavailable, and this replica has never served {pin.lineage.label} of {pin.lineage.task}"
            )
        made_up = self._pins.choose_provisional(pin.key, pin.lineage, active, pin.ttl_s)
        return PinState(pin.requested or made_up, False, none, unpinned=True, degraded=True)

    def _held(self, task: str, base: str) -> ItemResult | None:
        return self._spool.held(task, base) if self._spool is not None else None

    def _refuse_what_would_not_fit(self, held: Sequence[Sequence[ItemResult | None]]) -> None:
        """Before a judge is paid: a batch with anything new in it needs room."""
        if self._spool is not None and any(outcome is None for outcomes in held for outcome in outcomes):
            self._spool.refuse_if_full()


def _with_spooled(state: PinState, held: tuple[ItemResult | None, ...]) -> PinState:
    if state.conflict or state.active is None:
        return state
    outcomes = tuple(waiting or known for waiting, known in zip(held, state.outcomes, strict=True))
    return state._replace(outcomes=outcomes, degraded=state.degraded or any(held))


def _base(record: OutcomeRecord) -> str:
    return record.identity.rpartition(".")[0]


def _entry(task: str, record: OutcomeRecord) -> Entry:
    _, outcome, trace = record.to_json()
    ref = record.result.rubric
    rubric = RubricPointer(ref.digest, ref.version, ref.scope)
    return Entry(
        task=task,
        lineage=ref.lineage,
        base=_base(record),
        rubric=str(rubric),
        pin=record.pin.key if record.pin is not None else "",
        made_up=Flag.UNPINNED in record.result.flags,
        ttl_s=record.pin.ttl_s if record.pin is not None else 0,
        outcome=outcome.decode(),
        trace=trace.decode(),
        time=time.time(),
    )
