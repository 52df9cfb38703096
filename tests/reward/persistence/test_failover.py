"""Another Redis behind the same name: the connections to the wrong server are given up, in both services (I5)."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis as BlockingRedis
from redis import exceptions as redis_errors

from services.kit.store.redis import LuaFunction, connect
from services.reward.persistence.multiplexed import MultiplexedConnection
from tests.conftest import StartReward
from tests.support.failover import ReplicatedValkey, replicated_valkey
from tests.support.outage import (
    STEP,
    ask,
    error_of,
    gauge,
    numbered,
    readiness,
    readiness_problems,
    recovered,
    score,
    settings,
    traces_by_item,
)
from tests.support.waiting import wait_until


@pytest.fixture
def servers() -> Iterator[ReplicatedValkey]:
    with replicated_valkey() as both:
        yield both


def _bystander(servers: ReplicatedValkey) -> BlockingRedis:
    return BlockingRedis.from_url(servers.primary.url, decode_responses=True)


async def test_every_pooled_connection_moves_to_the_new_primary(servers: ReplicatedValkey) -> None:
    redis = connect(SecretStr(servers.url))
    await asyncio.gather(*(redis.blpop(["nothing"], timeout=1) for _ in range(8)))
    servers.swap()
    replies = await asyncio.gather(*(redis.set(f"key {n}", "x") for n in range(8)))
    assert replies == [True] * 8
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set("in a transaction", "1")
        await pipe.execute()
    await LuaFunction(redis, "store_judgements")(["by a script"], [60, "x"])
    with _bystander(servers) as primary:
        assert primary.exists("in a transaction", "by a script", *(f"key {n}" for n in range(8))) == 10
    await redis.aclose()


async def test_a_blocked_read_moves_to_the_new_primary(servers: ReplicatedValkey) -> None:
    redis = connect(SecretStr(servers.url))
    blocked = asyncio.ensure_future(redis.blpop(["queue"], timeout=4))
    with _bystander(servers) as primary:
        await asyncio.to_thread(wait_until, lambda: primary.info("clients")["blocked_clients"] == 1, "the read")
    servers.swap()
    with _bystander(servers) as primary:
        primary.rpush("queue", "entry")
    assert tuple(await blocked or ()) == ("queue", "entry")
    await redis.aclose()


async def test_the_shared_connection_moves_to_the_new_primary(servers: ReplicatedValkey) -> None:
    redis = connect(SecretStr(servers.url))
    pipe = MultiplexedConnection(redis)
    await pipe.execute_command("PING")
    servers.swap()
    replies = await asyncio.gather(*(pipe.execute_command("SET", f"key {n}", "x") for n in range(50)))
    assert replies == ["OK"] * 50
    with _bystander(servers) as primary:
        assert primary.dbsize() == 50
    await pipe.aclose()
    await redis.aclose()


async def test_a_refusal_because_of_one_key_keeps_the_connection(servers: ReplicatedValkey) -> None:
    redis = connect(SecretStr(servers.url))
    pipe = MultiplexedConnection(redis)
    await pipe.execute_command("SET", "text", "x")
    before = await pipe.execute_command("CLIENT", "ID"), await redis.client_id()
    for client in (pipe, redis):
        with pytest.raises(redis_errors.ResponseError, match="WRONGTYPE"):
            await client.execute_command("LPUSH", "text", "x")
        with pytest.raises(redis_errors.ResponseError):
            await client.execute_command("EVALSHA", "0" * 40, 0)
        with pytest.raises(redis_errors.ResponseError):
            await client.execute_command("XGROUP", "SETID", "no stream", "group", "0-0")
    assert (await pipe.execute_command("CLIENT", "ID"), await redis.client_id()) == before
    await pipe.aclose()
    await redis.aclose()


@pytest.mark.parametrize("spooling", [False, True], ids=["no spool", "spool"])
async def test_i5_roles_swap_twice_under_the_reward_service(
    start_reward: StartReward,
    tmp_path: Path,
    servers: ReplicatedValkey,
    spooling: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No answer says `unpinned`, nothing is lost, no trace is doubled, and the log says what happened."""
    spool = {} if spooling else {"spool_dir": ""}
    url = start_reward(**settings(servers.primary, tmp_path) | {"redis_url": servers.url} | spool).url
    for n in range(3):
        answer = await asyncio.to_thread(score, url, numbered(n), run="r", step=n)
        assert (answer["degraded"], answer["results"][0]["flags"]) == (False, [])
        assert readiness(url)[0] == 200
        servers.swap()
    assert readiness(url)[0] == 200
    assert await traces_by_item(servers.url) == {"0": 1, "1": 1, "2": 1}
    assert "a connection to Redis is given up: the Redis server is a read-only replica" in caplog.text


async def test_a_name_that_leads_to_a_replica_is_named_and_left_as_soon_as_it_follows(
    start_reward: StartReward, tmp_path: Path, servers: ReplicatedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    url = start_reward(**settings(servers.primary, tmp_path, spool_dir="") | {"redis_url": servers.url}).url
    score(url, numbered(0), **STEP)
    servers.swap(promote=False)
    refused = ask(url, numbered(1), **STEP)
    assert (refused.status_code, refused.json()["error"]) == (503, "redis_read_only")
    assert "read-only replica" in refused.json()["detail"]
    assert error_of(url, numbered(1), **STEP) == (503, "redis_read_only")  # the circuit is open
    status, parts = readiness(url)
    assert (status, parts["redis"]) == (503, False)
    assert "redis_read_only" in readiness_problems(url)["redis"]
    assert "read-only replica" in caplog.text
    with BlockingRedis.from_url(servers.primary.url) as old:
        old.execute_command("REPLICAOF", "NO", "ONE")
    await recovered(url) if gauge(url, "regrade_degraded_state") else None
    await asyncio.to_thread(wait_until, lambda: ask(url, numbered(1), **STEP).status_code == 200, "the service")
