"""The board: what the worker does, what cycles did, what operators ask for. All of it in Redis (I8)."""

import time
import uuid
from collections.abc import Sequence, Set

from pydantic import TypeAdapter
from redis.asyncio import Redis

from regrade.contracts import Alarm, Contract, CycleReport, CycleStatus, Pause, Trace
from services.kit.errors import Conflict, NotFound
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import LuaFunction, read_newest

RETENTION_S = 30 * 86_400
"""How long baselines and alarms outlive their last measurement."""

MAX_REPORTS = 1_000
"""Reports that are read at once, at most."""

_REQUEST_TTL_S = 3_600
_ALARMS = TypeAdapter(list[Alarm])
_TRACES = TypeAdapter(list[Trace])


def alarms_json(alarms: Sequence[Alarm]) -> str:
    """As the board keeps them."""
    return _ALARMS.dump_json(list(alarms)).decode()


def baseline_json(traces: Sequence[Trace]) -> str:
    """As the board keeps them."""
    return _TRACES.dump_json(list(traces)).decode()


class CycleRequest(Contract):
    """An operator's wish for a cycle."""

    id: str
    by: str
    reason: str


class StatusStore:
    """Status, requests and reports of every line."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._finish = LuaFunction(redis, "finish_cycle")
        self._withdraw = LuaFunction(redis, "withdraw")

    async def status(self, lineage: LineageKey) -> CycleStatus:
        """What is going on in this line."""
        redis_keys = [
            keys.cycle_key(lineage),
            keys.lag_key(lineage),
            keys.cycles_without_activation_key(lineage),
            keys.paused_key(lineage),
        ]
        text, lag, fruitless, paused = await self._redis.mget(redis_keys)
        status = CycleStatus.model_validate_json(text) if text else CycleStatus()
        told = {
            "completed": int(await self._redis.xlen(keys.reports_key(lineage))),
            "lag": int(lag or 0),
            "fruitless": int(fruitless or 0),
            "paused": Pause.model_validate_json(paused) if paused else None,
        }
        return status.model_copy(update=told)

    async def set_status(self, lineage: LineageKey, status: CycleStatus) -> None:
        """Note what is going on."""
        now = status.model_copy(update={"updated": time.time()})
        await self._redis.set(keys.cycle_key(lineage), now.model_dump_json())

    async def set_stage(self, lineage: LineageKey, status: CycleStatus) -> None:
        """Note how far a cycle has come; why the last one failed stands until one succeeds."""
        await self.set_status(lineage, status.model_copy(update={"error": (await self.status(lineage)).error}))

    async def set_lag(self, lineage: LineageKey, traces: int) -> None:
        """Note how many traces wait for a cycle."""
        await self._redis.set(keys.lag_key(lineage), traces)

    async def settled(self, lineage: LineageKey) -> str | None:
        """The id of the last activation that the watch let stand."""
        found = await self._redis.get(keys.watched_activation_key(lineage))
        return None if found is None else str(found)

    async def settle(self, lineage: LineageKey, activation: str) -> None:
        """Note that the watch lets an activation stand; no worker judges it again."""
        await self._redis.set(keys.watched_activation_key(lineage), activation)

    async def audit_settled(self, lineage: LineageKey) -> str | None:
        """The id of the last activation that the watch let stand by the audit."""
        found = await self._redis.get(keys.audited_activation_key(lineage))
        return None if found is None else str(found)

    async def settle_audit(self, lineage: LineageKey, activation: str) -> None:
        """Note that the watch lets an activation stand by the audit."""
        await self._redis.set(keys.audited_activation_key(lineage), activation)

    async def request(self, lineage: LineageKey, by: str, reason: str) -> None:
        """Ask for a cycle as soon as the worker looks. Each request is one of its own, also when it says the same."""
        request = CycleRequest(id=uuid.uuid4().hex, by=by, reason=reason)
        await self._redis.set(keys.cycle_request_key(lineage), request.model_dump_json(), ex=_REQUEST_TTL_S)

    async def requested(self, lineage: LineageKey) -> CycleRequest | None:
        """The pending request."""
        text = await self._redis.get(keys.cycle_request_key(lineage))
        return CycleRequest.model_validate_json(text) if text else None

    async def withdraw(self, lineage: LineageKey, request: CycleRequest) -> None:
        """Forget a request: it was served, or there was nothing to serve it with. One that came later stays."""
        await self._withdraw([keys.cycle_request_key(lineage)], [request.model_dump_json()])

    async def alarms(self, lineage: LineageKey) -> list[Alarm]:
        """The alarms that are raised."""
        text = await self._redis.get(keys.alarms_key(lineage))
        return _ALARMS.validate_json(text) if text else []

    async def set_alarms(self, lineage: LineageKey, alarms: Sequence[Alarm]) -> None:
        """Note what is raised."""
        await self._redis.set(keys.alarms_key(lineage), alarms_json(alarms), ex=RETENTION_S)

    async def baselines(self, lineage: LineageKey, runs: Set[str | None]) -> dict[str | None, list[Trace]]:
        """The first traces of those of `runs` that a cycle has seen before."""
        names = list(runs)
        texts = await self._redis.mget([keys.baseline_key(lineage, run) for run in names]) if names else []
        return {run: _TRACES.validate_json(text) for run, text in zip(names, texts, strict=True) if text}

    async def pause(self, lineage: LineageKey, pause: Pause | None) -> None:
        """Start no cycle but on request from now on; None ends that."""
        if pause is None:
            await self._redis.delete(keys.paused_key(lineage))
        else:
            await self._redis.set(keys.paused_key(lineage), pause.model_dump_json())

    async def finish(
        self, lineage: LineageKey, token: str, last_trace: str, report: CycleReport, request: CycleRequest | None
    ) -> None:
        """Record a cycle's end, move the cursor, forget its checkpoint and the request it served: all at once.

        An abandoned cycle moves no cursor and serves no request. Raises `Conflict` when the lease was lost meanwhile.
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
        """The newest `count` reports of ended cycles behind the `skip` newest, oldest first."""
        found = await read_newest(self._redis, keys.reports_key(lineage), count=skip + count)
        return [CycleReport.model_validate_json(fields["report"]) for _, fields in reversed(found[skip:])]

    async def report(self, lineage: LineageKey, cycle: str) -> CycleReport:
        """What one cycle did. Raises `NotFound`."""
        for report in reversed(await self.reports(lineage)):
            if report.cycle == cycle:
                return report
        raise NotFound(f"no report of cycle {cycle!r} in {lineage.label!r} of {lineage.task!r}", code="unknown_cycle")
