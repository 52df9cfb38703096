"""One Redis client per process, with explicit time-outs; and named Lua functions, loaded by content."""

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

    Every write of ours may be repeated: a lost answer is safe to ask for again.
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


class _Ours:
    """A transport that closed before the command was written is a lost connection: uvloop calls it a `RuntimeError`."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RuntimeError as error:
            raise RedisConnectionError(f"the connection closed under a write: {error}") from error


class _Connection(_Ours, Connection):
    pass


class _SSLConnection(_Ours, SSLConnection):
    pass


async def check_writable(redis: Redis) -> None:
    """Write one short-lived key: a Redis that only answers pings is of no use. Raises what the client raises."""
    await redis.set(PROBE_KEY, "1", ex=60)


async def shared_fence_key(redis: Redis) -> bytes:
    """The key of the prompt fences, made up by whoever asks first: equal for all, so that equal prompts stay equal."""
    await redis.set(FENCE_KEY, secrets.token_hex(32), nx=True)
    return str(await redis.get(FENCE_KEY)).encode()


async def read_entries(
    redis: Redis, stream: str, *, after: str = "", until: str = "+", count: int | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Entries of a stream behind `after` and up to `until`, oldest first."""
    found = await redis.xrange(stream, min=f"({after}" if after else "-", max=until, count=count)
    return cast("list[tuple[str, dict[str, str]]]", found or [])


async def read_newest(redis: Redis, stream: str, *, until: str = "+", count: int) -> list[tuple[str, dict[str, str]]]:
    """The last `count` entries of a stream up to `until`, newest first."""
    found = await redis.xrevrange(stream, max=until, count=count)
    return cast("list[tuple[str, dict[str, str]]]", found or [])


class CommandSender(Protocol):
    """What takes a command to Redis: the client, or a `MultiplexedConnection`."""

    def execute_command(self, *args: Any) -> Awaitable[Any]:
        """The answer to a command."""
        ...


def entry_position(entry_id: str) -> tuple[int, int]:
    """A stream entry's id as what its order goes by: milliseconds, and a number within one."""
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
