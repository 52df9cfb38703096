"""Kills processes on a schedule and restarts them, swaps the roles of the Redis servers, and empties one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from benchmarks.soak.clients import Clients
from benchmarks.soak.monitor import TraceReader
from benchmarks.soak.processes import RestartableProcess, SoakStack

_ENGINE_DOWN_S = 5.0
_REDIS_DOWN_S = 7.0
_REPLICA_DOWN_S = 2.0
_MAX_BACK_S = 10.0
_SHARES = (
    (0.07, "engine"), (0.14, "redis"), (0.21, "replica b"), (0.28, "redis, then replica b"),
    (0.36, "failover"), (0.40, "failover"), (0.44, "redis emptied"), (0.48, "replica b"),
)  # fmt: skip
"""Share of the run at which each fault begins. The second half has none, so that memory can be measured."""


class Outage(NamedTuple):
    """From the fault until the process was ready again, in seconds since the start of the soak.

    `back_s` are the seconds from another primary until each replica had answered a request, sent after that, from it.
    """

    what: str
    began: float
    ended: float
    back_s: float | None = None


class Faults:
    """Kills and restarts; `outage` names the current outage, `outages` holds the past ones."""

    def __init__(self, stack: SoakStack, clients: Clients, reader: TraceReader) -> None:
        self._stack = stack
        self._clients = clients
        self._reader = reader
        self.outages: list[Outage] = []
        self.outage = ""

    async def run(self, began: float, seconds: float) -> None:
        """Run the schedule of a soak of `seconds` that began at `began` (`time.monotonic`)."""
        actions = self._actions()
        for share, what in _SHARES:
            await asyncio.sleep(max(0.0, began + share * seconds - time.monotonic()))
            self.outage = what
            from_s = time.monotonic() - began
            back_s = await actions[what]()
            self.outages.append(Outage(what, from_s, time.monotonic() - began, back_s))
            self.outage = ""

    def _actions(self) -> dict[str, Callable[[], Awaitable[float | None]]]:
        return {
            "failover": self._failover,
            "redis emptied": self._emptied,
            "engine": self._engine,
            "redis": self._redis,
            "replica b": self._replica,
            "redis, then replica b": self._redis_and_replica,
        }

    async def _failover(self) -> float:
        """The roles swap while both servers and all connections stay up."""
        await asyncio.to_thread(self._stack.redis.pause_writes)
        began = time.monotonic()
        await asyncio.to_thread(self._stack.redis.swap)
        return await self._until_back(began)

    async def _emptied(self) -> float:
        """The name leads to an empty server. What the old one had acknowledged is read before."""
        await asyncio.to_thread(self._stack.redis.pause_writes)
        await self._reader.begin_epoch(self._stack.redis.primary_url)
        began = time.monotonic()
        self._clients.begin_epoch()
        await asyncio.to_thread(lambda: self._stack.redis.swap(emptied=True))
        return await self._until_back(began)

    async def _until_back(self, began: float) -> float:
        while min(self._clients.served_at.values()) < began:
            if time.monotonic() > began + _MAX_BACK_S:
                self._clients.give_up_waiting()
                break
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    async def _engine(self) -> None:
        await self._restart(self._stack.engine, _ENGINE_DOWN_S)

    async def _redis(self, during: Sequence[Awaitable[None]] = ()) -> None:
        self._stack.redis.kill()
        await asyncio.sleep(_REDIS_DOWN_S / 2)
        for action in during:
            await action
        await asyncio.sleep(_REDIS_DOWN_S / 2)
        await asyncio.to_thread(self._stack.redis.start)

    async def _replica(self) -> None:
        self._clients.kills += 1
        await self._restart(self._stack.replicas[-1], _REPLICA_DOWN_S)
        self._clients.kills += 1

    async def _redis_and_replica(self) -> None:
        """The replica's spooled outcomes then exist only on its disk."""
        await self._redis([self._replica()])

    async def _restart(self, process: RestartableProcess, seconds: float) -> None:
        process.kill()
        await asyncio.sleep(seconds)
        process.start()
        await process.until_ready()
