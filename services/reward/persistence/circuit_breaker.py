"""Whether Redis is to be asked at all: after one failed call nobody else waits for its time-outs.

Nobody's request is the probe: whoever runs the probe in the background says when Redis is back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis import exceptions as redis_errors

from services.kit.asyncio_utils import cancel_and_wait

log = logging.getLogger(__name__)

T = TypeVar("T")

_AT_ONCE = 48
"""Below the connections of `services.kit.store.redis.connect`: a crowd waits its turn and is no outage."""

_AWAY = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.ClusterDownError,
    OSError,
)
_AWAY_REPLIES = ("MISCONF", "NOREPLICAS", "BUSY ")


class RedisUnavailable(redis_errors.ConnectionError):
    """Redis did not answer, cannot be written to, or is known not to have answered a moment ago."""


class CircuitBreaker:
    """Closed while Redis answers. A call that fails, or takes longer than `timeout_s`, opens it; `close` closes it."""

    def __init__(self, *, timeout_s: float = 3.0) -> None:
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._abandoned: set[asyncio.Task[None]] = set()
        self._opened = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether Redis is taken to be away."""
        return self._opened.is_set()

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` answers. Raises `RedisUnavailable`, at once while the circuit is open; other errors pass."""
        self._check()
        async with self._slots:
            with self.guard():
                return await self._bounded(ask)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Like `call`, for a block with a timeout of its own; not entered while the circuit is open."""
        self._check()
        try:
            yield
        except redis_errors.ResponseError as error:
            if not _is_away(error):
                raise
            raise self.open(error) from error
        except _AWAY as error:
            raise self.open(error) from error

    def open(self, error: Exception) -> RedisUnavailable:
        """Take Redis to be away from now on."""
        if not self.is_open:
            log.warning("Redis is away", extra={"detail": f"{type(error).__name__}: {error}"})
        self._opened.set()
        return RedisUnavailable(f"Redis is away: {error}")

    def close(self) -> None:
        """Redis has been seen to answer."""
        if self.is_open:
            log.warning("Redis is back")
        self._opened.clear()

    async def wait_until_open(self, timeout_s: float) -> None:
        """Return when the circuit is open, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()
        except TimeoutError:
            return

    async def aclose(self) -> None:
        """Drop the calls nobody waits for any more."""
        for task in list(self._abandoned):
            await cancel_and_wait(task)

    def _check(self) -> None:
        if self.is_open:
            raise RedisUnavailable("Redis was away a moment ago")

    async def _bounded(self, ask: Callable[[], Awaitable[T]]) -> T:
        """A command can swallow its cancellation, so it runs in a task of its own that is left behind when late."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(_fill(answer, ask))
        try:
            await asyncio.wait({answer}, timeout=self._timeout_s)
        finally:
            if not answer.done():
                answer.cancel()
                self._abandoned.add(task)
                task.add_done_callback(self._abandoned.discard)
                task.cancel()
        if answer.cancelled():
            raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        return answer.result()


async def _fill(answer: asyncio.Future[T], ask: Callable[[], Awaitable[T]]) -> None:
    try:
        value = await ask()
    except Exception as error:  # handed on, not handled: who waits for the answer is told
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(value)


def _is_away(error: redis_errors.ResponseError) -> bool:
    return isinstance(error, _AWAY) or str(error).startswith(_AWAY_REPLIES)
