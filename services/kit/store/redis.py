"""The Redis client with its timeouts, reads of streams, and named Lua functions."""

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha1
from importlib import resources
from typing import Any, Protocol, TypeVar, cast

from pydantic import SecretStr
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.kit.redis_faults import fault_of
from services.kit.store.keys import FENCE_KEY, PROBE_KEY

log = logging.getLogger(__name__)

T = TypeVar("T")


def connect(url: SecretStr) -> Redis:
    """A client that decodes to `str`, gives up on a dead connection after 5 s and retries twice with jitter.

    A retry may repeat a write whose reply was lost; every write of the services permits that. It uses a new
    connection, also after an error that another server behind the same name may not have (see `redis_faults`).
    """
    address = url.get_secret_value()
    pool = ConnectionPool.from_url(
        address,
        connection_class=_SSLConnection if address.startswith("rediss://") else _Connection,
        decode_responses=True,
        socket_timeout=5.0,
        socket_connect_timeout=2.0,
        socket_keepalive=True,
        health_check_interval=30,
        max_connections=64,
        retry=_ReconnectingRetry(
            ExponentialWithJitterBackoff(base=0.05, cap=0.5),
            retries=2,
            supported_errors=(RedisConnectionError, RedisTimeoutError, ResponseError),
        ),
    )
    return Redis.from_pool(pool)


class _ReconnectingRetry(Retry):
    """Retries what fails because of the server; redis-py closes the connection before each retry, and after the last.

    Errors about one command are raised at once, and keep the connection.
    """

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        *options: Any,
        **named: Any,
    ) -> T:
        def is_of_server(error: Exception) -> bool:
            fault = fault_of(error)
            if fault.is_of_server and isinstance(error, ResponseError):
                extra = {"kind": fault.kind, "detail": fault.detail}
                log.warning(f"a connection to Redis is given up: {fault.sentence}", extra=extra)
            return fault.is_of_server and (is_retryable is None or is_retryable(error))

        return await super().call_with_retry(do, fail, is_of_server, *options, **named)


class _ClosedTransportMixin:
    """Reports a transport that closed before a write as a lost connection; uvloop raises `RuntimeError`."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RuntimeError as error:
            raise RedisConnectionError(f"the connection closed under a write: {error}") from error


class _Connection(_ClosedTransportMixin, Connection):
    pass


class _SSLConnection(_ClosedTransportMixin, SSLConnection):
    pass


async def check_writable(redis: Redis) -> None:
    """Run a script that writes one short-lived key, as the services write. Raises `RedisError`.

    A read-only or full Redis answers pings, and a user may lack the permission to run scripts.
    """
    await LuaFunction(redis, "probe")([PROBE_KEY], [])


async def shared_fence_key(redis: Redis, own: str = "") -> bytes:
    """The shared key of the prompt fences, so that equal prompts stay equal: `own` or a new one where there is none."""
    own = own or secrets.token_hex(32)
    await redis.set(FENCE_KEY, own, nx=True)
    return str(await redis.get(FENCE_KEY) or own).encode()


async def read_entries(
    redis: Redis, stream: str, *, after: str = "", until: str = "+", count: int | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Entries of a stream after the id `after` and up to `until`, oldest first."""
    page = await redis.xrange(stream, min=f"({after}" if after else "-", max=until, count=count)
    return cast("list[tuple[str, dict[str, str]]]", page or [])


async def read_newest(redis: Redis, stream: str, *, until: str = "+", count: int) -> list[tuple[str, dict[str, str]]]:
    """The last `count` entries of a stream up to `until`, newest first."""
    page = await redis.xrevrange(stream, max=until, count=count)
    return cast("list[tuple[str, dict[str, str]]]", page or [])


class CommandSender(Protocol):
    """Sends commands to Redis: the client, or the reward service's `MultiplexedConnection`."""

    def execute_command(self, *args: Any) -> Awaitable[Any]:
        """The reply to a command."""
        ...


def entry_position(entry_id: str) -> tuple[int, int]:
    """A stream entry's id as sortable numbers: milliseconds, and the count within one."""
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


class LuaFunction:
    """A script in `services/kit/store/lua/<name>.lua`, run atomically by Redis and called by the hash of its text.

    The text itself is sent only when Redis does not know the hash, so two releases of a service can run side by side.
    """

    def __init__(self, redis: CommandSender, name: str) -> None:
        self._redis = redis
        self._text = resources.files("services.kit.store").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
        self._hash = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], args: Sequence[str | bytes | int] | Mapping[str, Any]) -> Any:
        """Run the script. Named arguments reach it as one JSON object in `ARGV[1]`."""
        values = [json.dumps(args)] if isinstance(args, Mapping) else args
        try:
            return await self._redis.execute_command("EVALSHA", self._hash, len(keys), *keys, *values)
        except NoScriptError:
            return await self._redis.execute_command("EVAL", self._text, len(keys), *keys, *values)
