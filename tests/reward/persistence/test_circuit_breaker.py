"""The circuit: one failed call spares the others, only what means an outage opens it, only a probe closes it."""

import asyncio

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable
from services.reward.persistence.judgement_cache import JudgementStore
from tests.support.builders import TASK


async def test_after_one_failure_nobody_asks_until_it_is_closed() -> None:
    circuit = CircuitBreaker()
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise redis_errors.ConnectionError("refused")

    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            await circuit.call(fail)
    assert (calls, circuit.is_open) == (1, True)
    circuit.close()
    with pytest.raises(RedisUnavailable, match="not reachable") as raised:
        await circuit.call(fail)
    assert raised.value.fault.detail.endswith("refused")
    assert calls == 2


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (redis_errors.TimeoutError(), True),
        (redis_errors.ReadOnlyError(), True),
        (redis_errors.OutOfMemoryError(), True),
        (redis_errors.ResponseError("MISCONF cannot persist"), True),
        (redis_errors.ResponseError("NOREPLICAS not enough"), True),
        (OSError(), True),
        (redis_errors.ResponseError("WRONGTYPE a bug of ours"), False),
        (ValueError(), False),
    ],
)
async def test_an_outage_is_told_from_a_bug(error: Exception, opens: bool) -> None:
    circuit = CircuitBreaker()

    async def fail() -> None:
        raise error

    with pytest.raises(RedisUnavailable if opens else type(error)):
        await circuit.call(fail)
    assert circuit.is_open is opens


async def test_a_silent_redis_is_away_after_its_time() -> None:
    circuit = CircuitBreaker(timeout_s=0.05)
    stubborn = asyncio.Event()

    async def never() -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:  # as a command under way may
                continue

    with pytest.raises(RedisUnavailable) as raised:
        await asyncio.wait_for(circuit.call(never), 60.0)
    assert "0.05 s" in raised.value.fault.detail
    with pytest.raises(RedisUnavailable):
        await circuit.call(never)
    stubborn.set()
    await circuit.aclose()


async def test_a_crowd_waits_its_turn(redis: Redis) -> None:
    """More calls at once than there are connections: no outage."""
    circuit = CircuitBreaker()
    answers = await asyncio.gather(*(circuit.call(redis.ping) for _ in range(400)))
    assert all(answers)
    assert not circuit.is_open


async def test_a_caller_that_is_cancelled_opens_nothing(redis: Redis) -> None:
    circuit = CircuitBreaker()
    caller = asyncio.create_task(circuit.call(lambda: redis.blpop(["nothing"], timeout=5)))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not circuit.is_open
    await circuit.aclose()


async def test_whoever_waits_for_an_outage_is_told() -> None:
    circuit = CircuitBreaker()
    await circuit.wait_until_open(0.01)
    assert not circuit.is_open
    waiting = asyncio.create_task(circuit.wait_until_open(30.0))
    await asyncio.sleep(0)
    circuit.open(redis_errors.ConnectionError())
    await asyncio.wait_for(waiting, 60.0)


async def test_judgements_are_a_cache_that_may_be_away(redis: Redis) -> None:
    circuit = CircuitBreaker()
    store = JudgementStore(redis, circuit)
    await store.put(TASK, {"a": ((0.25, 0.75),)})
    assert await store.get(TASK, ["a", "b"]) == {"a": ((0.25, 0.75),)}
    circuit.open(redis_errors.ConnectionError())
    await store.put(TASK, {"b": ((1.0,),)})
    assert await store.get(TASK, ["a", "b"]) == {}
    circuit.close()
    assert await store.get(TASK, ["a", "b"]) == {"a": ((0.25, 0.75),)}
