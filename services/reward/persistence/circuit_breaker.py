"""The circuit breaker before Redis: after one failed call, later ones fail at once instead of waiting for timeouts.

Requests are never used as probes: a background task probes Redis and closes the circuit.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from redis import exceptions as redis_errors

from services.kit.asyncio_utils import cancel_and_wait
from services.kit.redis_faults import FaultKind, RedisFault, fault_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_CALLS = 48
"""Below the pool size of `services.kit.store.redis.connect`: many calls at once wait here and count as no outage."""


class RedisUnavailable(redis_errors.ConnectionError):
    """Redis did not answer, cannot be written to, or the circuit is open; `fault` says why."""

    def __init__(self, text: str, fault: RedisFault) -> None:
        super().__init__(text)
        self.fault = fault


class CircuitBreaker:
    """Closed while Redis answers. A call that fails or exceeds `timeout_s` opens it; only `close` closes it."""

    def __init__(self, *, timeout_s: float = 3.0) -> None:
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(_MAX_CALLS)
        self._abandoned: set[asyncio.Future[Any]] = set()
        self._opened = asyncio.Event()
        self.fault = RedisFault(FaultKind.UNAVAILABLE, "")
        """What opened the circuit last."""

    @property
    def is_open(self) -> bool:
        """Whether Redis is considered unavailable."""
        return self._opened.is_set()

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Await an operation. Raises `RedisUnavailable`, at once while the circuit is open; other errors pass."""
        self._raise_if_open()
        async with self._slots:
            with self.guard():
                return await self._with_timeout(operation)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Like `call`, for a block with a timeout of its own; not entered while the circuit is open."""
        self._raise_if_open()
        try:
            yield
        except (redis_errors.RedisError, OSError) as error:
            if not fault_of(error).is_of_server:
                raise
            raise self.open(error) from error

    def open(self, error: Exception) -> RedisUnavailable:
        """Consider Redis unavailable, or for another reason than before; returns the error to be raised."""
        fault = fault_of(error)
        if not self.is_open or fault.kind is not self.fault.kind:
            level = logging.ERROR if fault.is_lasting else logging.WARNING
            log.log(level, fault.sentence, extra={"kind": fault.kind, "detail": fault.detail})
        self.fault = fault
        self._opened.set()
        return self.unavailable()

    def unavailable(self, text: str = "") -> RedisUnavailable:
        """The error of a call that Redis cannot serve; `text` says what cannot be served."""
        return RedisUnavailable("; ".join(filter(None, (self.fault.sentence, text))), self.fault)

    def close(self) -> None:
        """Redis answers again."""
        if self.is_open:
            log.warning("Redis is available again")
        self._opened.clear()

    async def wait_until_open(self, timeout_s: float) -> None:
        """Return when the circuit is open, or after `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._opened.wait()

    async def aclose(self) -> None:
        """Cancel the abandoned calls."""
        for task in list(self._abandoned):
            await cancel_and_wait(task)

    def _raise_if_open(self) -> None:
        if self.is_open:
            raise self.unavailable()

    async def _with_timeout(self, operation: Callable[[], Awaitable[T]]) -> T:
        """A command can swallow its cancellation, so it runs in its own task, which is abandoned at the timeout."""
        task = asyncio.ensure_future(operation())
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
        finally:
            if not task.done():
                self._abandoned.add(task)
                task.add_done_callback(self._discard)
                task.cancel()
        if task in self._abandoned:
            raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        return task.result()

    def _discard(self, task: asyncio.Future[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: its caller has had a timeout
