"""One Redis connection shared by the calls that each batch makes: sent at once, answered in order.

redis-py lends each command a connection and wraps it in tasks, timeouts and retries of its own: some 50 us of CPU a
call, where this takes 5. Commands of concurrent batches share one connection, and one timer checks the oldest of
them. Failures are raised as redis-py's errors.
"""

import asyncio
import logging
import ssl
from collections import deque
from typing import Any, cast

import hiredis
from redis import exceptions as redis_errors
from redis.asyncio import Redis, SSLConnection
from redis.asyncio.connection import Connection

from services.kit.redis_faults import fault_of

log = logging.getLogger(__name__)

_CONNECT_S = 2.0
_ERRORS: dict[str, type[redis_errors.RedisError]] = {
    "NOSCRIPT": redis_errors.NoScriptError,
    "READONLY": redis_errors.ReadOnlyError,
    "OOM": redis_errors.OutOfMemoryError,
    "LOADING": redis_errors.BusyLoadingError,
    "CLUSTERDOWN": redis_errors.ClusterDownError,
    "NOAUTH": redis_errors.AuthenticationError,
    "WRONGPASS": redis_errors.AuthenticationError,
}


class MultiplexedConnection:
    """Commands to the server of the client `redis`. `timeout_s` bounds the wait for a reply.

    A command whose connection is lost is sent once more over a new one, so commands must be repeatable. So is one
    that is refused because of the server: another one may have taken its place behind the same name.
    """

    def __init__(self, redis: Redis, *, timeout_s: float = 5.0) -> None:
        self._address: Connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def execute_command(self, *command: Any) -> Any:
        """The reply to one command, as text. Raises `RedisError`."""
        packed = _packed(*command)
        connection = self._connection
        if connection is not None and connection.usable:
            try:
                return await connection.send(packed)
            except redis_errors.RedisError as error:
                if not isinstance(error, _ConnectionLost) and not connection.retired:
                    raise
        try:
            return await (await self._connected()).send(packed)
        except OSError as error:
            raise redis_errors.ConnectionError(f"no connection to Redis: {error}") from error

    async def aclose(self) -> None:
        """Close the connection; calls in flight fail."""
        if self._connection is not None:
            self._connection.close(redis_errors.ConnectionError("closed"))

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._connection is None or not self._connection.usable:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        address = self._address
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._timeout_s), address.host, address.port, ssl=_tls(address)
                )
        except TimeoutError as error:
            raise redis_errors.TimeoutError("no connection to Redis in time") from error
        try:
            if address.password:
                await connection.send(_packed("AUTH", address.username or "default", address.password))
            if address.db:
                await connection.send(_packed("SELECT", address.db))
        except BaseException:
            connection.close(redis_errors.ConnectionError("closed"))
            raise
        return connection


def _packed(*command: Any) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _tls(address: Connection) -> ssl.SSLContext | None:
    return address.ssl_context.get() if isinstance(address, SSLConnection) else None


class _ConnectionLost(redis_errors.ConnectionError):
    """The connection ended before the reply; the command may have been executed."""


class _Connection(asyncio.Protocol):
    """One connection, on which replies arrive in the order of the commands."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._reader = hiredis.Reader(encoding="utf-8", errors="strict", replyError=_error)
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.retired = False
        """Its server has refused a command because of itself: later commands need another connection."""

    @property
    def usable(self) -> bool:
        """Whether it takes further commands."""
        return not self.retired and self._transport is not None and not self._transport.is_closing()

    def send(self, packed: bytes) -> "asyncio.Future[Any]":
        """Send a command; the future gets its reply."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            answer.set_exception(_ConnectionLost("the connection was lost"))
            return answer
        self._waiting.append((self._loop.time() + self._timeout_s, answer))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_timeout)
        self._transport.write(packed)
        return answer

    def close(self, error: redis_errors.RedisError) -> None:
        """End the connection; calls in flight raise `error`."""
        if self._transport is not None:
            self._transport.abort()
        self._end(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class does not derive from it

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                _, answer = self._waiting.popleft()
                if answer.done():
                    continue
                if isinstance(reply, redis_errors.RedisError):
                    self._retire_by(reply)
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
            if self.retired and not self._waiting:
                self.close(_ConnectionLost("the connection was given up"))
        except (hiredis.HiredisError, UnicodeDecodeError, IndexError) as error:
            self.close(redis_errors.ConnectionError(f"unexpected reply from Redis: {error!r}"))

    def _retire_by(self, error: redis_errors.RedisError) -> None:
        fault = fault_of(error)
        if fault.is_of_server and not self.retired:
            self.retired = True
            extra = {"kind": fault.kind, "detail": fault.detail}
            log.warning(f"a connection to Redis is given up: {fault.sentence}", extra=extra)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(_ConnectionLost(f"Redis closed the connection{f': {exc}' if exc else ''}"))

    def _end(self, error: redis_errors.RedisError) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)

    def _check_timeout(self) -> None:
        """Close the connection when the oldest command is overdue: the later ones wait behind it."""
        self._timer = None
        if not self._waiting:
            return
        until = self._waiting[0][0]
        if until <= self._loop.time():
            self.close(redis_errors.TimeoutError(f"no answer within {self._timeout_s:g} s"))
        else:
            self._timer = self._loop.call_at(until, self._check_timeout)


def _error(text: str) -> redis_errors.RedisError:
    code = text.partition(" ")[0]
    return _ERRORS.get(code, redis_errors.ResponseError)(text)
