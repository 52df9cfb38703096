"""Pins: the first use of a step or group fixes its rubric, atomically (I2)."""

import asyncio

import pytest
from msgspec.structs import replace
from pydantic import SecretStr
from redis.asyncio import Redis

from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import connect
from services.kit.store.rubric_store import RubricPointer, RubricStore
from services.kit.store.trace_log import PinRequest, TraceLog
from tests.support.builders import LINEAGE, TASK, activate, checks_only, record

ONE, TWO = checks_only(1), checks_only(2)


def _pin(
    name: str = "a",
    *,
    lineage: LineageKey = LINEAGE,
    wanted: RubricPointer | None = None,
    items: tuple[str, ...] = (),
    step: int | None = 1,
) -> PinRequest:
    return PinRequest(keys.pin_key(lineage, "run", step, name), lineage, wanted, 600, items)


async def test_i2_the_first_use_fixes_the_rubric(store: RubricStore, trace_log: TraceLog) -> None:
    await activate(store, ONE)
    (first,) = await trace_log.resolve(TASK, [_pin()])
    await activate(store, TWO)
    (second,) = await trace_log.resolve(TASK, [_pin()])
    (other,) = await trace_log.resolve(TASK, [_pin(step=2)])
    assert first.active == second.active == RubricPointer(ONE.digest, 1, None)
    assert other.active == RubricPointer(TWO.digest, 2, None)


@pytest.mark.parametrize("step", [1, None], ids=["step", "group"])
async def test_i2_concurrent_first_uses_agree(redis_url: str, store: RubricStore, step: int | None) -> None:
    clients = [connect(SecretStr(redis_url)) for _ in range(4)]
    logs = [TraceLog(client) for client in clients]
    await activate(store, ONE)

    done = False

    async def keep_activating() -> None:
        while not done:
            for wanted in (TWO, ONE):
                await activate(store, wanted)

    activating = asyncio.create_task(keep_activating())
    seen = set()
    for round_number in range(100):
        pin = PinRequest(
            keys.pin_key(LINEAGE, "run", step and round_number, f"g{round_number}"), LINEAGE, None, 600, ()
        )
        states = await asyncio.gather(*(log.resolve(TASK, [pin]) for log in logs))
        digests = {state.active.digest for (state,) in states if state.active is not None}
        assert len(digests) == 1
        seen |= digests
    done = True
    await activating
    for client in clients:
        await client.aclose()
    assert seen == {ONE.digest, TWO.digest}


async def test_groups_and_runs_are_pinned_apart(store: RubricStore, trace_log: TraceLog) -> None:
    await activate(store, ONE)
    await trace_log.resolve(TASK, [_pin("a", step=None)])
    await activate(store, TWO)
    states = await trace_log.resolve(TASK, [_pin("a", step=None), _pin("b", step=None), _pin("a", step=1)])
    assert [state.active and state.active.version for state in states] == [1, 2, 2]


async def test_a_named_rubric_is_pinned_and_another_one_refused(store: RubricStore, trace_log: TraceLog) -> None:
    await activate(store, ONE)
    await activate(store, TWO)
    named = RubricPointer(ONE.digest, 1, None)
    (state,) = await trace_log.resolve(TASK, [_pin(wanted=named)])
    assert (state.active, state.conflict) == (named, False)
    (state,) = await trace_log.resolve(TASK, [_pin(wanted=RubricPointer(TWO.digest, 2, None))])
    assert (state.active, state.conflict, state.outcomes) == (named, True, ())
    (state,) = await trace_log.resolve(TASK, [_pin(wanted=named)])
    assert not state.conflict


async def test_nothing_active_pins_nothing(redis: Redis, store: RubricStore, trace_log: TraceLog) -> None:
    (state,) = await trace_log.resolve(TASK, [_pin()])
    assert state.active is None
    assert await redis.keys("*:pin:*") == []
    await activate(store, ONE)
    (state,) = await trace_log.resolve(TASK, [_pin()])
    assert state.active is not None


async def test_a_scope_is_pinned_to_the_narrowest_active_lineage(store: RubricStore, trace_log: TraceLog) -> None:
    scoped = LineageKey(TASK, "main", "algebra/3")
    await activate(store, ONE)
    (state,) = await trace_log.resolve(TASK, [_pin(lineage=scoped)])
    assert state.active == RubricPointer(ONE.digest, 1, None)
    await activate(store, TWO, lineage=LineageKey(TASK, "main", "algebra"))
    again, fresh = await trace_log.resolve(TASK, [_pin(lineage=scoped), _pin(lineage=scoped, step=2)])
    assert again.active == RubricPointer(ONE.digest, 1, None)
    assert fresh.active == RubricPointer(TWO.digest, 1, "algebra")


async def test_a_pin_lives_as_long_as_asked(redis: Redis, store: RubricStore, trace_log: TraceLog) -> None:
    await activate(store, ONE)
    await trace_log.resolve(TASK, [_pin()])
    assert 590 < await redis.ttl(_pin().key) <= 600


async def test_known_outcomes_come_with_the_pin(store: RubricStore, trace_log: TraceLog) -> None:
    await activate(store, ONE)
    known = record(f"base.{ONE.digest}")
    await trace_log.append(TASK, [known, record(f"elsewhere.{TWO.digest}")])
    (state,) = await trace_log.resolve(TASK, [_pin(items=("base", "unknown", "elsewhere"))])
    assert state.outcomes == (replace(known.result, cached=True), None, None)
