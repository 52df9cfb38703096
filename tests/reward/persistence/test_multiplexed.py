"""The shared connection: answers in order, one loss is made good, and a Redis that says nothing is given up."""

import asyncio

import pytest
from pydantic import SecretStr
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from services.kit.store.redis import connect
from services.reward.persistence.multiplexed import MultiplexedConnection
from tests.support.valkey import running_valkey


async def test_callers_at_once_get_their_own_answers(redis: Redis) -> None:
    pipe = MultiplexedConnection(redis)
    answers = await asyncio.gather(*(pipe.execute_command("ECHO", f"word {n} é") for n in range(200)))
    assert answers == [f"word {n} é" for n in range(200)]
    await pipe.aclose()


async def test_a_refusal_reaches_its_caller_alone(redis: Redis) -> None:
    pipe = MultiplexedConnection(redis)
    await redis.set("text", "x")
    replies: list[object] = await asyncio.gather(
        pipe.execute_command("INCR", "text"),
        pipe.execute_command("EVALSHA", "0" * 40, 0),
        pipe.execute_command("GET", "text"),
        return_exceptions=True,
    )
    assert isinstance(replies[0], redis_errors.ResponseError)
    assert isinstance(replies[1], redis_errors.NoScriptError)
    assert replies[2] == "x"
    await pipe.aclose()


async def test_a_caller_that_goes_away_costs_the_others_nothing(redis: Redis) -> None:
    pipe = MultiplexedConnection(redis)
    await pipe.execute_command("PING")
    gone = asyncio.create_task(pipe.execute_command("ECHO", "gone"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await pipe.execute_command("ECHO", "next") == "next"
    await pipe.aclose()


async def test_a_connection_that_was_cut_is_made_again() -> None:
    with running_valkey() as valkey:
        redis = connect(SecretStr(valkey.url))
        pipe = MultiplexedConnection(redis)
        assert await pipe.execute_command("PING") == "PONG"
        valkey.stop()
        valkey.start_again()
        assert await pipe.execute_command("PING") == "PONG"
        await pipe.aclose()
        await redis.aclose()


async def test_a_redis_that_is_not_there_is_a_connection_error() -> None:
    with running_valkey() as valkey:
        redis = connect(SecretStr(valkey.url))
        pipe = MultiplexedConnection(redis)
        await pipe.execute_command("PING")
        valkey.stop()
        with pytest.raises(redis_errors.ConnectionError):
            await pipe.execute_command("PING")
        await pipe.aclose()
        await redis.aclose()


async def test_a_silent_redis_is_given_up_for_everybody_and_asked_anew_later() -> None:
    with running_valkey() as valkey:
        redis = connect(SecretStr(valkey.url))
        pipe = MultiplexedConnection(redis, timeout_s=1.0)
        await pipe.execute_command("PING")
        valkey.pause()
        replies = await asyncio.gather(*(pipe.execute_command("PING") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in replies] == [redis_errors.TimeoutError] * 3
        valkey.resume()
        assert await pipe.execute_command("PING") == "PONG"
        await pipe.aclose()
        await redis.aclose()


async def test_it_signs_in_and_chooses_its_database() -> None:
    with running_valkey() as valkey:
        open_door = connect(SecretStr(valkey.url))
        await open_door.config_set("requirepass", "secret")
        redis = connect(SecretStr(f"redis://:secret@127.0.0.1:{valkey.port}/3"))
        pipe = MultiplexedConnection(redis)
        await pipe.execute_command("SET", "here", "1")
        assert await redis.get("here") == "1"
        stranger = connect(SecretStr(f"redis://:wrong@127.0.0.1:{valkey.port}/3"))
        with pytest.raises(redis_errors.AuthenticationError):
            await MultiplexedConnection(stranger).execute_command("PING")
        await pipe.aclose()
        for client in (open_door, redis, stranger):
            await client.aclose()
