"""The Redis client on the event loop that the services run on."""

import asyncio

import uvloop
from pydantic import SecretStr
from redis import exceptions as redis_errors

from services.kit.store.redis import connect
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable


def test_a_connection_that_closes_under_a_write_is_a_redis_that_is_away(redis_url: str) -> None:
    async def write_to_a_closed_connection() -> BaseException | None:
        redis, circuit = connect(SecretStr(redis_url)), CircuitBreaker()
        await redis.ping()
        (connection,) = redis.connection_pool._available_connections
        assert connection._writer is not None
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        try:
            await circuit.call(lambda: connection.send_command("PING"))
        except RedisUnavailable as error:
            return error.__cause__
        finally:
            await redis.aclose()
        return None

    assert isinstance(uvloop.run(write_to_a_closed_connection()), redis_errors.ConnectionError)
