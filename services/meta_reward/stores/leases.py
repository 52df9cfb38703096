"""Leases: one worker at a time runs a lineage's cycle, audits it, or archives a task.

A lease carries a fencing token, and every write is checked against it: a worker that lost its lease changes nothing.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import LuaFunction

log = logging.getLogger(__name__)


class Leases:
    """Takes, renews and releases leases. Fencing tokens of one lease increase."""

    def __init__(self, redis: Redis, *, ttl_ms: int = 15_000) -> None:
        self._take = LuaFunction(redis, "lease_take")
        self._hold = LuaFunction(redis, "lease_hold")
        self._ttl_ms = ttl_ms

    def hold(self, lineage: LineageKey) -> AbstractAsyncContextManager[str | None]:
        """The fencing token of a lineage's cycle while the lease is held, or None when another worker holds it."""
        return self._held(keys.lease_key(lineage), keys.lease_counter_key(lineage))

    def hold_archive(self, task: str) -> AbstractAsyncContextManager[str | None]:
        """Like `hold`, for the archive of a task's traces."""
        return self._held(keys.archive_lease_key(task), keys.archive_lease_counter_key(task))

    def hold_audit(self, lineage: LineageKey) -> AbstractAsyncContextManager[str | None]:
        """Like `hold`, for the audit of a lineage's traces."""
        return self._held(keys.audit_lease_key(lineage), keys.audit_lease_counter_key(lineage))

    @asynccontextmanager
    async def _held(self, key: str, counter: str) -> AsyncIterator[str | None]:
        token: str = await self._take([key, counter], [self._ttl_ms, secrets.token_hex(4)])
        if not token:
            yield None
            return
        done = asyncio.Event()
        renewal = asyncio.create_task(self._renew(key, token, done))
        try:
            yield token
        finally:
            done.set()
            await renewal
            await self._hold([key], [token, 0])

    async def _renew(self, key: str, token: str, done: asyncio.Event) -> None:
        """Renew three times per lifetime until `done`. Not ended by cancellation, which redis-py can swallow."""
        while not await _is_set_within(done, self._ttl_ms / 3_000):
            try:
                if not await self._hold([key], [token, self._ttl_ms]):
                    log.warning("a lease was lost", extra={"lease": key})
                    return
            except RedisError:
                log.warning("a lease could not be renewed", exc_info=True)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
