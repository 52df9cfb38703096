"""The board: what the worker does, what cycles did, what operators ask for. All of it in Redis (I8)."""

import time
import uuid
from collections.abc import Set

from redis.asyncio import Redis

from regrade.contracts import Contract, CycleReport, CycleStatus
from services.kit import keyspace as ks
from services.kit.errors import Conflict
from services.kit.keyspace import Line
from services.kit.redis import LuaFunction, entries

_REQUEST_TTL_S = 3_600


class Request(Contract):
    """An operator's wish for a cycle."""

    id: str
    by: str
    reason: str


class Board:
    """Status, requests and reports of every line."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._finish = LuaFunction(redis, "finish_cycle")
        self._withdraw = LuaFunction(redis, "withdraw")

    async def status(self, line: Line) -> CycleStatus:
        """What is going on in this line."""
        text, lag = await self._redis.mget([ks.cycle_key(line), ks.lag_key(line)])
        status = CycleStatus.model_validate_json(text) if text else CycleStatus()
        completed = int(await self._redis.xlen(ks.reports_key(line)))
        return status.model_copy(update={"completed": completed, "lag": int(lag or 0)})

    async def set_status(self, line: Line, status: CycleStatus) -> None:
        """Note what is going on."""
        now = status.model_copy(update={"updated": time.time()})
        await self._redis.set(ks.cycle_key(line), now.model_dump_json())

    async def set_stage(self, line: Line, status: CycleStatus) -> None:
        """Note how far a cycle has come; why the last one failed stands until one succeeds."""
        await self.set_status(line, status.model_copy(update={"error": (await self.status(line)).error}))

    async def set_lag(self, line: Line, traces: int) -> None:
        """Note how many traces wait for a cycle."""
        await self._redis.set(ks.lag_key(line), traces)

    async def settled(self, line: Line) -> str | None:
        """The id of the last activation that the watch let stand."""
        found = await self._redis.get(ks.settled_key(line))
        return None if found is None else str(found)

    async def settle(self, line: Line, activation: str) -> None:
        """Note that the watch lets an activation stand; no worker judges it again."""
        await self._redis.set(ks.settled_key(line), activation)

    async def request(self, line: Line, by: str, reason: str) -> None:
        """Ask for a cycle as soon as the worker looks. Each request is one of its own, also when it says the same."""
        request = Request(id=uuid.uuid4().hex, by=by, reason=reason)
        await self._redis.set(ks.request_key(line), request.model_dump_json(), ex=_REQUEST_TTL_S)

    async def requested(self, line: Line) -> Request | None:
        """The pending request."""
        text = await self._redis.get(ks.request_key(line))
        return Request.model_validate_json(text) if text else None

    async def withdraw(self, line: Line, request: Request) -> None:
        """Forget a request: it was served, or there was nothing to serve it with. One that came later stays."""
        await self._withdraw([ks.request_key(line)], [request.model_dump_json()])

    async def run_starts(self, line: Line, runs: Set[str | None], position: str) -> dict[str | None, str]:
        """Behind which position each run's first traces are: `position`, for those never seen before."""
        key, names = ks.runs_key(line), list(runs)
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in names:
                pipe.hsetnx(key, name or "", position)
            pipe.hmget(key, [name or "" for name in names])
            *_, starts = await pipe.execute()
        return dict(zip(names, starts, strict=True))

    async def finish(self, line: Line, token: str, last_trace: str, report: CycleReport) -> None:
        """Record a finished cycle and move the cursor. Raises `Conflict` when the lease was lost meanwhile."""
        keys = [ks.lease_key(line), ks.traces_key(line.task), ks.reports_key(line)]
        if not await self._finish(keys, [token, line.label, last_trace, report.model_dump_json()]):
            raise Conflict("the cycle lost its lease; its report was refused", code="fenced")

    async def reports(self, line: Line) -> list[CycleReport]:
        """Every finished cycle, oldest first."""
        found = await entries(self._redis, ks.reports_key(line))
        return [CycleReport.model_validate_json(fields["report"]) for _, fields in found]
