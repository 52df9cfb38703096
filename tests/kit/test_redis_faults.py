"""What an error of Redis means, by both clients of a real server in that state, and by texts of other servers."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis as BlockingRedis
from redis import exceptions as redis_errors

from services.kit.redis_faults import FaultKind, fault_of
from services.kit.store.redis import CommandSender, check_writable, connect
from services.local.valkey import start_valkey
from services.reward.persistence.multiplexed import MultiplexedConnection
from tests.support.valkey import Valkey, running_valkey

Configure = Callable[[Any], object]


@pytest.fixture
def server() -> Iterator[Valkey]:
    with running_valkey() as valkey:
        yield valkey


def _new_password(connection: BlockingRedis) -> None:
    connection.config_set("requirepass", "another one")
    connection.client_kill_filter(_type="normal", skipme=True)


STATES: dict[FaultKind, Configure] = {
    FaultKind.READ_ONLY: lambda c: c.execute_command("REPLICAOF", "127.0.0.1", 1),
    FaultKind.OUT_OF_MEMORY: lambda c: c.config_set("maxmemory", "1kb"),
    FaultKind.TOO_FEW_REPLICAS: lambda c: c.config_set("min-replicas-to-write", 1),
    FaultKind.NO_PERMISSION: lambda c: c.execute_command("ACL", "SETUSER", "default", "-set"),
    FaultKind.AUTHENTICATION: _new_password,
}


@pytest.mark.parametrize("kind", STATES)
async def test_a_server_in_a_state_is_named_and_asked_anew_once_it_is_well(server: Valkey, kind: FaultKind) -> None:
    redis = connect(SecretStr(server.url))
    pipe = MultiplexedConnection(redis)
    await check_writable(redis)
    await pipe.execute_command("PING")
    with BlockingRedis.from_url(server.url) as operator:
        operator.ping()
        STATES[kind](operator)
        for attempt in (check_writable(redis), pipe.execute_command("SET", "key", "x")):
            with pytest.raises(redis_errors.RedisError) as raised:
                await attempt
            fault = fault_of(raised.value)
            assert (fault.kind, fault.is_of_server) == (kind, True)
            assert fault.code == f"redis_{kind.value}"
    await pipe.aclose()
    await redis.aclose()


async def test_a_server_in_cluster_mode_is_named() -> None:
    server = start_valkey(config={"cluster-enabled": "yes"})
    try:
        redis = connect(SecretStr(f"redis://127.0.0.1:{server.port}/0"))
        pipe = MultiplexedConnection(redis)
        for attempt in (redis.set("key", "x"), pipe.execute_command("SET", "key", "x")):
            with pytest.raises(redis_errors.RedisError) as raised:
                await attempt
            assert fault_of(raised.value).kind is FaultKind.CLUSTER
            assert "not supported" in fault_of(raised.value).sentence
        await pipe.aclose()
        await redis.aclose()
    finally:
        server.stop()


async def _answer(text: bytes) -> tuple[asyncio.Server, int, list[int]]:
    """A server that answers INCR with an error; its port; and the number of connections so far."""
    connections = [0]

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[0] += 1
        with suppress(asyncio.CancelledError):  # at the end of the test
            while chunk := await reader.read(65_536):
                for command in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", chunk):
                    replies = {b"INCR": b"-" + text, b"PING": b"+PONG"}
                    writer.write(replies.get(command, b"+OK") + b"\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], connections


@pytest.mark.parametrize(("text", "kind"), [
    (b"MOVED 12182 10.0.0.3:6379", "cluster"),
    (b"ASK 12182 10.0.0.3:6379", "cluster"),
    (b"CROSSSLOT Keys in request don't hash to the same slot", "cluster"),
    (b"CLUSTERDOWN The cluster is down", "cluster"),
    (b"TRYAGAIN Multiple keys request during rehashing of slot", "cluster"),
    (b"LOADING Redis is loading the dataset in memory", "loading"),
    (b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "no_primary"),
    (b"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", "read_only"),
    (b"BUSY Redis is busy running a script. You can only call SCRIPT KILL.", "busy_script"),
    (b"MISCONF Errors writing to the AOF file: No space left on device", "not_persisted"),
    (b"NOAUTH Authentication required.", "authentication"),
    (b"WRONGPASS invalid username-password pair or user is disabled.", "authentication"),
    (b"NOPERM User worker has no permissions to run the 'evalsha' command", "no_permission"),
    (b"ERR unknown command 'EVALSHA', with args beginning with: 'hunter2'", "unknown_command"),
    (b"ERR unknown command `EVALSHA`, with args beginning with: `hunter2`, ", "unknown_command"),
    (b"ERR max number of clients reached", "unavailable"),
    (b"upstream failure", "refused"),
    (b"NOBACKEND no upstream server", "refused"),
    (b"ERR Error running script (call to f_0ab): @user_script:5: @user_script: 5: -READONLY You can't write against "
     b"a read only replica.", "read_only"),
    (b"ERR Error running script (call to f_0ab): @user_script:5: -OOM command not allowed", "out_of_memory"),
])  # fmt: skip
async def test_an_error_of_the_server_costs_the_connection(text: bytes, kind: str) -> None:
    server, port, connections = await _answer(text)
    redis = connect(SecretStr(f"redis://127.0.0.1:{port}/0"))
    pipe = MultiplexedConnection(redis)
    clients: tuple[CommandSender, ...] = (redis, pipe)
    for client in clients:
        for _ in range(2):
            before = connections[0]
            with pytest.raises(redis_errors.RedisError) as raised:
                await client.execute_command("INCR", "x")
            fault = fault_of(raised.value)
            assert (fault.kind.value, fault.is_of_server) == (kind, True)
            assert "hunter2" not in fault.detail
            assert connections[0] > before, "the next attempt has to resolve the name again"
    await pipe.aclose()
    await redis.aclose()
    server.close()


@pytest.mark.parametrize("text", [
    b"WRONGTYPE Operation against a key holding the wrong kind of value",
    b"NOGROUP No such key 'traces' or consumer group 'main'",
    b"NOSCRIPT No matching script.",
    b"BUSYGROUP Consumer Group name already exists",
    b"ERR value is not an integer or out of range",
    b"ERR Error running script (call to f_0ab): @user_script:5: user_script:5: attempt to index a nil value",
    b"WRONGTYPE Operation against a key holding the wrong kind of value script: 0ab, on @user_script:4.",
])  # fmt: skip
async def test_an_error_of_one_command_keeps_the_connection(text: bytes) -> None:
    server, port, connections = await _answer(text)
    redis = connect(SecretStr(f"redis://127.0.0.1:{port}/0"))
    pipe = MultiplexedConnection(redis)
    errors: list[Exception] = []
    clients: tuple[CommandSender, ...] = (redis, pipe)
    for client in clients:
        for _ in range(3):
            with pytest.raises(redis_errors.ResponseError) as raised:
                await client.execute_command("INCR", "x")
            errors.append(raised.value)
    assert not any(fault_of(error).is_of_server for error in errors)
    assert connections == [2]
    await pipe.aclose()
    await redis.aclose()
    server.close()
