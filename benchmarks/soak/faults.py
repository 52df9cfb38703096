"""What is killed when, and when it is there again."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from benchmarks.soak.clients import Clients
from benchmarks.soak.processes import Part, Parts

_ENGINE_AWAY_S = 5.0
_REDIS_AWAY_S = 7.0
_REPLICA_AWAY_S = 2.0
_SHARES = (
    (0.07, "engine"), (0.14, "redis"), (0.21, "replica b"), (0.28, "redis, and replica b meanwhile"),
    (0.36, "engine"), (0.42, "redis"), (0.48, "replica b"),
)  # fmt: skip
"""At which share of the time what is killed. The rest is calm, so that memory can be seen to lie flat."""


class Outage(NamedTuple):
    """From the kill until the part was ready again, in seconds since the soak began."""

    what: str
    began: float
    ended: float


class Faults:
    """Kills and starts again; `outages` says when."""

    def __init__(self, parts: Parts, clients: Clients) -> None:
        self._parts = parts
        self._clients = clients
        self.outages: list[Outage] = []
        self.now = ""
        """What is away."""

    async def run(self, began: float, seconds: float) -> None:
        """The schedule of a soak of so many seconds that began at `began` (`time.monotonic`)."""
        deeds = self._deeds()
        for share, what in _SHARES:
            await asyncio.sleep(max(0.0, began + share * seconds - time.monotonic()))
            self.now = what
            from_s = time.monotonic() - began
            await deeds[what]()
            self.outages.append(Outage(what, from_s, time.monotonic() - began))
            self.now = ""

    def _deeds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "engine": self._engine,
            "redis": self._redis,
            "replica b": self._replica,
            "redis, and replica b meanwhile": self._redis_and_replica,
        }

    async def _engine(self) -> None:
        await self._away(self._parts.engine, _ENGINE_AWAY_S)

    async def _redis(self, meanwhile: Sequence[Awaitable[None]] = ()) -> None:
        self._parts.redis.kill()
        await asyncio.sleep(_REDIS_AWAY_S / 2)
        for deed in meanwhile:
            await deed
        await asyncio.sleep(_REDIS_AWAY_S / 2)
        await asyncio.to_thread(self._parts.redis.start)

    async def _replica(self) -> None:
        self._clients.kills += 1
        await self._away(self._parts.replicas[-1], _REPLICA_AWAY_S)
        self._clients.kills += 1

    async def _redis_and_replica(self) -> None:
        """What the replica has spooled by then stands on its disk alone."""
        await self._redis([self._replica()])

    async def _away(self, part: Part, seconds: float) -> None:
        part.kill()
        await asyncio.sleep(seconds)
        part.start()
        await part.until_ready()
