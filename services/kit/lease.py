"""The cycle lease: at most one worker runs a line's cycle, and a worker that lost its lease can change nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.kit import keyspace as ks
from services.kit.keyspace import Line
from services.kit.redis import LuaFunction

log = logging.getLogger(__name__)


class Leases:
    """Takes, renews and gives back leases; each carries a fencing token that only grows."""

    def __init__(self, redis: Redis, *, ttl_ms: int = 15_000) -> None:
        self._take = LuaFunction(redis, "lease_take")
        self._hold = LuaFunction(redis, "lease_hold")
        self._ttl_ms = ttl_ms

    @asynccontextmanager
    async def hold(self, line: Line) -> AsyncIterator[str | None]:
        """The fencing token while the lease is held and renewed, or None when another worker has it."""
        token: str = await self._take([ks.lease_key(line), ks.fence_counter_key(line)], [self._ttl_ms])
        if not token:
            yield None
            return
        done = asyncio.Event()
        renewal = asyncio.create_task(self._renew(line, token, done))
        try:
            yield token
        finally:
            done.set()
            await renewal
            await self._hold([ks.lease_key(line)], [token, 0])

    async def _renew(self, line: Line, token: str, done: asyncio.Event) -> None:
        """Renew three times a lease's life, until done. Never cancelled: redis-py can swallow a cancellation."""
        while not await _is_set_within(done, self._ttl_ms / 3_000):
            try:
                if not await self._hold([ks.lease_key(line)], [token, self._ttl_ms]):
                    log.warning("the cycle lease was lost", extra={"line": line.label, "task": line.task})
                    return
            except RedisError:
                log.warning("the cycle lease could not be renewed", exc_info=True)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
