"""The Redis client with its timeouts, reads of streams, and named Lua functions."""

import json
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from hashlib import sha1
from importlib import resources
from typing import Any, Protocol, cast

from pydantic import SecretStr
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from services.kit.store.keys import FENCE_KEY, PROBE_KEY


def connect(url: SecretStr) -> Redis:
    """A client that decodes to `str`, gives up on a dead connection after 5 s and retries twice with jitter.

    A retry may repeat a write whose reply was lost; every write of the services permits that.
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
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2),
    )
    return Redis.from_pool(pool)


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
    """Write one short-lived key, since a read-only or full Redis answers pings, too. Raises `RedisError`."""
    await redis.set(PROBE_KEY, "1", ex=60)


async def shared_fence_key(redis: Redis) -> bytes:
    """The key of the prompt fences, made by the first replica and shared, so that equal prompts stay equal."""
    await redis.set(FENCE_KEY, secrets.token_hex(32), nx=True)
    return str(await redis.get(FENCE_KEY)).encode()


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
