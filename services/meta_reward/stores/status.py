"""State of each lineage's cycles in Redis: status, requests, reports, alarms, baselines (I8)."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Literal

from pydantic import TypeAdapter
from redis.asyncio import Redis

from regrade.contracts import Alarm, Contract, CycleReport, CycleStatus, Pause, Trace
from services.kit.errors import Conflict, NotFound
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import LuaFunction, read_newest

RETENTION_S = 30 * 86_400
"""Lifetime of baselines and alarms after their last measurement. A run that pauses for a month starts afresh."""

MAX_REPORTS = 1_000
"""Reports in one read: about 5 MB of JSON."""

_REQUEST_TTL_S = 3_600
"""A request that no worker could serve within an hour no longer reflects what the operator wants."""

WatchCheck = Literal["spread", "audit"]
"""What the watch checks an activation by: the spread of its first rewards, and the audit."""
_CONFIRMED_KEYS: Mapping[WatchCheck, Callable[[LineageKey], str]] = {
    "spread": keys.watched_activation_key,
    "audit": keys.audited_activation_key,
}
_ALARMS = TypeAdapter(list[Alarm])
_TRACES = TypeAdapter(list[Trace])


def alarms_json(alarms: Sequence[Alarm]) -> str:
    """The value of `alarms_key`."""
    return _ALARMS.dump_json(list(alarms)).decode()


def baseline_json(traces: Sequence[Trace]) -> str:
    """The value of `baseline_key`."""
    return _TRACES.dump_json(list(traces)).decode()


class CycleRequest(Contract):
    """An operator's request for a cycle. `id` makes two requests with the same text distinct."""

    id: str
    by: str
    reason: str


class StatusStore:
    """Reads and writes the state of every lineage's cycles."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._finish = LuaFunction(redis, "finish_cycle")
        self._withdraw = LuaFunction(redis, "withdraw")

    async def status(self, lineage: LineageKey) -> CycleStatus:
        """The stage of the running cycle, the lag, the pause, and the last error."""
        text, lag, fruitless, paused, request = await self._redis.mget(
            [
                keys.cycle_key(lineage),
                keys.lag_key(lineage),
                keys.cycles_without_activation_key(lineage),
                keys.paused_key(lineage),
                keys.cycle_request_key(lineage),
            ]
        )
        status = CycleStatus.model_validate_json(text) if text else CycleStatus()
        counts = {
            "completed": int(await self._redis.xlen(keys.reports_key(lineage))),
            "lag": int(lag or 0),
            "fruitless": int(fruitless or 0),
            "paused": Pause.model_validate_json(paused) if paused else None,
            "requested": request is not None,
        }
        return status.model_copy(update=counts)

    async def set_status(self, lineage: LineageKey, status: CycleStatus) -> None:
        """Store the status with the current time."""
        stamped = status.model_copy(update={"updated": time.time()})
        await self._redis.set(keys.cycle_key(lineage), stamped.model_dump_json())

    async def set_stage(self, lineage: LineageKey, status: CycleStatus) -> None:
        """Store the running cycle's stage. The last cycle's error is kept until a cycle succeeds."""
        await self.set_status(lineage, status.model_copy(update={"error": (await self.status(lineage)).error}))

    async def set_lag(self, lineage: LineageKey, traces: int) -> None:
        """Store the number of traces that no cycle has consumed."""
        await self._redis.set(keys.lag_key(lineage), traces)

    async def confirmed_activation(self, lineage: LineageKey, check: WatchCheck) -> str | None:
        """Id of the last activation that passed a check of the watch."""
        activation = await self._redis.get(_CONFIRMED_KEYS[check](lineage))
        return None if activation is None else str(activation)

    async def confirm_activation(self, lineage: LineageKey, check: WatchCheck, activation: str) -> None:
        """Record that an activation passed a check, so that no worker checks it again."""
        await self._redis.set(_CONFIRMED_KEYS[check](lineage), activation)

    async def request(self, lineage: LineageKey, by: str, reason: str) -> None:
        """Request a cycle at the worker's next poll."""
        request = CycleRequest(id=uuid.uuid4().hex, by=by, reason=reason)
        await self._redis.set(keys.cycle_request_key(lineage), request.model_dump_json(), ex=_REQUEST_TTL_S)

    async def requested(self, lineage: LineageKey) -> CycleRequest | None:
        """The pending request."""
        text = await self._redis.get(keys.cycle_request_key(lineage))
        return CycleRequest.model_validate_json(text) if text else None

    async def withdraw(self, lineage: LineageKey, request: CycleRequest) -> None:
        """Delete a request that needs no cycle; a later request stays."""
        await self._withdraw([keys.cycle_request_key(lineage)], [request.model_dump_json()])

    async def alarms(self, lineage: LineageKey) -> list[Alarm]:
        """The alarms that are raised."""
        text = await self._redis.get(keys.alarms_key(lineage))
        return _ALARMS.validate_json(text) if text else []

    async def set_alarms(self, lineage: LineageKey, alarms: Sequence[Alarm]) -> None:
        """Replace the raised alarms."""
        await self._redis.set(keys.alarms_key(lineage), alarms_json(alarms), ex=RETENTION_S)

    async def baselines(self, lineage: LineageKey, runs: Set[str | None]) -> dict[str | None, list[Trace]]:
        """The stored first traces of those of `runs` that have any."""
        names = list(runs)
        texts = await self._redis.mget([keys.baseline_key(lineage, run) for run in names]) if names else []
        return {run: _TRACES.validate_json(text) for run, text in zip(names, texts, strict=True) if text}

    async def pause(self, lineage: LineageKey, pause: Pause | None) -> None:
        """Pause the lineage, so that cycles start on request only; None resumes it."""
        if pause is None:
            await self._redis.delete(keys.paused_key(lineage))
        else:
            await self._redis.set(keys.paused_key(lineage), pause.model_dump_json())

    async def finish(
        self, lineage: LineageKey, token: str, last_trace: str, report: CycleReport, request: CycleRequest | None
    ) -> None:
        """Store a cycle's report, advance the cursor, delete the checkpoint and the served request, atomically.

        An abandoned cycle advances no cursor and serves no request. Raises `Conflict` when the lease was lost.
        """
        ended = "" if report.abandoned else "fruitful" if report.activated else "fruitless"
        served = "" if report.abandoned or request is None else request.model_dump_json()
        redis_keys = [
            keys.lease_key(lineage),
            keys.traces_key(lineage.task),
            keys.reports_key(lineage),
            keys.checkpoint_key(lineage),
            keys.cycles_without_activation_key(lineage),
            keys.cycle_request_key(lineage),
        ]
        args = {
            "token": token,
            "group": lineage.label,
            "cursor": "" if report.abandoned else last_trace,
            "report": report.model_dump_json(),
            "ended": ended,
            "request": served,
        }
        if not await self._finish(redis_keys, args):
            raise Conflict("the cycle lost its lease; its report was refused", code="fenced")

    async def reports(self, lineage: LineageKey, count: int = MAX_REPORTS, *, skip: int = 0) -> list[CycleReport]:
        """`count` reports of ended cycles, without the `skip` newest, oldest first, with their numbers."""
        key = keys.reports_key(lineage)
        entries = await read_newest(self._redis, key, count=skip + count)
        total = len(entries) if len(entries) < skip + count else int(await self._redis.xlen(key))
        newest = total - skip
        return [
            CycleReport.model_validate_json(fields["report"]).model_copy(update={"number": newest - index})
            for index, (_, fields) in reversed([*enumerate(entries[skip:])])
        ]

    async def report(self, lineage: LineageKey, cycle: str) -> CycleReport:
        """The report of one cycle, by its id or its number. Raises `NotFound`."""
        reports = await self.reports(lineage)
        for report in reversed(reports):
            if cycle in (report.cycle, str(report.number)):
                return report
        numbers = f"{reports[0].number} to {reports[-1].number}" if reports else "none"
        raise NotFound(
            f"no report of cycle {cycle!r} in {lineage.label!r} of {lineage.task!r}; ended cycles: {numbers}",
            code="unknown_cycle",
        )
