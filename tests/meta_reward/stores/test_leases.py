"""The cycle lease: one holder, a token that grows, and no power after it is lost."""

import pytest
from redis.asyncio import Redis

from regrade.contracts import GatePass
from services.kit.errors import Conflict
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore, gate_event
from services.meta_reward.stores.leases import Leases
from tests.support.builders import LINEAGE, TASK, activate, checks_only, gate_report
from tests.support.waiting import until


async def test_one_holder_at_a_time_and_a_growing_token(redis: Redis) -> None:
    leases = Leases(redis)
    async with leases.hold(LINEAGE) as first:
        assert first is not None
        async with Leases(redis).hold(LINEAGE) as second:
            assert second is None
        async with leases.hold(LineageKey(TASK, "branch")) as elsewhere:
            assert elsewhere is not None
        assert await redis.get(keys.lease_key(LINEAGE)) == first
    async with leases.hold(LINEAGE) as third:
        assert third is not None
        assert float(third.partition(".")[0]) > float(first.partition(".")[0])
    assert await redis.exists(keys.lease_key(LINEAGE)) == 0


async def test_a_token_is_never_given_twice_though_redis_loses_its_data(redis: Redis) -> None:
    """The counter begins again; the holder of before must not take the next holder's lease for its own."""
    leases, store = Leases(redis), RubricStore(redis)
    async with leases.hold(LINEAGE) as before:
        await redis.flushall()
        one, two = checks_only(1), checks_only(2)
        await activate(store, one)
        await store.put(TASK, two)
        async with leases.hold(LINEAGE) as after:
            assert after not in (None, before)
            authority = GatePass(cycle="c")
            with pytest.raises(Conflict) as raised:
                await store.activate(LINEAGE, two.digest, expected=one.digest, authority=authority, token=before or "")
            assert raised.value.code == "fenced"


async def test_a_lease_is_renewed_while_it_is_held(redis: Redis) -> None:
    key = keys.lease_key(LINEAGE)
    async with Leases(redis, ttl_ms=6_000).hold(LINEAGE) as token:
        await redis.pexpire(key, 4_000)

        async def renewed() -> bool:
            return bool(await redis.pttl(key) > 4_000)

        await until(renewed, "the renewal")
        assert await redis.get(key) == token


async def test_a_lost_lease_is_neither_renewed_nor_given_back(redis: Redis) -> None:
    key = keys.lease_key(LINEAGE)
    async with Leases(redis, ttl_ms=60).hold(LINEAGE) as token:
        await redis.set(key, "another", px=60_000)

        async def is_taken() -> bool:
            return bool(await redis.pttl(key) > 1_000)

        await until(is_taken, "the other's lease to stand")
        assert token != "another"
    assert await redis.get(key) == "another"


async def test_i6_a_cycle_that_lost_its_lease_activates_nothing(redis: Redis, store: RubricStore) -> None:
    one, two = checks_only(1), checks_only(2)
    await activate(store, one)
    await store.put(TASK, two)
    await store.record(LINEAGE, gate_event(gate_report(two.digest, one.digest)))
    authority = GatePass(cycle="cycle-1")
    async with Leases(redis).hold(LINEAGE) as token:
        assert token is not None
        await redis.delete(keys.lease_key(LINEAGE))
        with pytest.raises(Conflict, match="lost its lease") as refused:
            await store.activate(LINEAGE, two.digest, expected=one.digest, authority=authority, token=token)
        assert refused.value.code == "fenced"
        async with Leases(redis).hold(LINEAGE) as successor:
            assert successor is not None
            with pytest.raises(Conflict, match="lost its lease"):
                await store.activate(LINEAGE, two.digest, expected=one.digest, authority=authority, token=token)
            assert (await store.active(LINEAGE)) is not None
            await store.activate(LINEAGE, two.digest, expected=one.digest, authority=authority, token=successor)
    assert (await store.versions(LINEAGE))[2] == two.digest
