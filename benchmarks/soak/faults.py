"""Kills processes on a schedule and restarts them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from benchmarks.soak.clients import Clients
from benchmarks.soak.processes import RestartableProcess, SoakStack

_ENGINE_DOWN_S = 5.0
_REDIS_DOWN_S = 7.0
_REPLICA_DOWN_S = 2.0
_SHARES = (
    (0.07, "engine"), (0.14, "redis"), (0.21, "replica b"), (0.28, "redis, then replica b"),
    (0.36, "engine"), (0.42, "redis"), (0.48, "replica b"),
)  # fmt: skip
"""Share of the run at which each kill starts. The second half has none, so that memory can be measured."""


class Outage(NamedTuple):
    """From the kill until the process was ready again, in seconds since the start of the soak."""

    what: str
    began: float
    ended: float


class Faults:
    """Kills and restarts; `outage` names the current outage, `outages` holds the past ones."""

    def __init__(self, stack: SoakStack, clients: Clients) -> None:
        self._stack = stack
        self._clients = clients
        self.outages: list[Outage] = []
        self.outage = ""

    async def run(self, began: float, seconds: float) -> None:
        """Run the schedule of a soak of `seconds` that began at `began` (`time.monotonic`)."""
        actions = self._actions()
        for share, what in _SHARES:
            await asyncio.sleep(max(0.0, began + share * seconds - time.monotonic()))
            self.outage = what
            from_s = time.monotonic() - began
            await actions[what]()
            self.outages.append(Outage(what, from_s, time.monotonic() - began))
            self.outage = ""

    def _actions(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "engine": self._engine,
            "redis": self._redis,
            "replica b": self._replica,
            "redis, then replica b": self._redis_and_replica,
        }

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
