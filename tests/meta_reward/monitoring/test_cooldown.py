"""After an automatic rollback there is no other for a while, whichever worker looks; operators are not bound."""

import pytest
from redis.asyncio import Redis

from regrade.contracts import EventKind, GatePass, Rubric
from services.kit.errors import Conflict
from services.kit.store import keys
from services.kit.store.rubric_store import RubricStore, gate_event
from tests.support.builders import LINEAGE, OVERRIDE, TASK, gate_report, llm, rubric
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text, certain
from tests.support.meta import Meta, meta_script, running_meta, train

FLAT, FLATTER = rubric(llm("flat")), rubric(llm("flatter"))
PATIENT = 1_000


def judge(messages: Messages) -> Reply:
    """No spread under a flat rubric."""
    return certain(4) if "Flat" in messages[0]["content"] else by_text(messages)


async def pass_the_gate(store: RubricStore, wanted: Rubric) -> str:
    before = await store.active(LINEAGE)
    assert before is not None
    await store.put(TASK, wanted)
    await store.record(LINEAGE, gate_event(gate_report(wanted.digest, before.digest)))
    await store.activate(LINEAGE, wanted.digest, expected=before.digest, authority=GatePass(cycle="c"))
    return before.digest


async def active(meta: Meta) -> str:
    pointer = await meta.deps.store.active(LINEAGE)
    assert pointer is not None
    return pointer.digest


async def test_no_second_rollback_while_the_first_cools_down(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = meta_script(judge)
    async with running_meta(redis, reward_url, fake_engine, every_traces=PATIENT) as meta:
        await train(meta.client, "A first try at the essay. ", step=1)
        first = await pass_the_gate(meta.deps.store, FLAT)
        await train(meta.client, "A second try at the essay. ", step=2)
        await meta.worker.watch(LINEAGE)
        assert await active(meta) == first
        assert 1_700 < await redis.ttl(keys.rollback_cooldown_key(LINEAGE)) <= 1_800
        await pass_the_gate(meta.deps.store, FLATTER)
        await train(meta.client, "A third try at the essay. ", step=3)
        await meta.worker.watch(LINEAGE)
        assert await active(meta) == FLATTER.digest
    async with running_meta(redis, reward_url, fake_engine, every_traces=PATIENT) as meta:
        await meta.worker.watch(LINEAGE)
        assert await active(meta) == FLATTER.digest, "another worker keeps to it"
        await redis.delete(keys.rollback_cooldown_key(LINEAGE))
        await meta.worker.watch(LINEAGE)
        assert await active(meta) == first, "it was put off, not given up"


async def test_two_workers_roll_back_once(redis: Redis, store: RubricStore) -> None:
    """The cool-down begins in the same step as the rollback: nobody slips in between."""
    for wanted in (FLAT, FLATTER, rubric(llm("third"))):
        current = await store.active(LINEAGE)
        await store.put(TASK, wanted)
        await store.activate(LINEAGE, wanted.digest, expected=current.digest if current else None, authority=OVERRIDE)
    await store.rollback(LINEAGE, by="watch", reason="spread", cooldown_s=60.0)
    with pytest.raises(Conflict) as refused:
        await store.rollback(LINEAGE, by="watch", reason="spread", cooldown_s=60.0)
    assert refused.value.code == "cooling"
    back = await store.rollback(LINEAGE, by="me", reason="I say so")
    assert back.digest == FLAT.digest, "an operator is not bound"
    last = (await store.history(LINEAGE))[-1]
    assert (last.kind, last.by) == (EventKind.ROLLED_BACK, "me")


async def test_a_cycle_does_not_bring_back_what_was_rolled_back(redis: Redis, store: RubricStore) -> None:
    """Not by the gate, and not by strategy `paper` either, which activates by override under its token."""
    for wanted in (FLAT, FLATTER):
        current = await store.active(LINEAGE)
        await store.put(TASK, wanted)
        await store.activate(LINEAGE, wanted.digest, expected=current.digest if current else None, authority=OVERRIDE)
    await store.rollback(LINEAGE, by="watch", reason="spread", cooldown_s=60.0)
    await redis.set(keys.lease_key(LINEAGE), "7")
    for authority in (GatePass(cycle="c"), OVERRIDE):
        with pytest.raises(Conflict, match="passed the gate" if isinstance(authority, GatePass) else "rolled back"):
            await store.activate(LINEAGE, FLATTER.digest, expected=FLAT.digest, authority=authority, token="7")
    assert await store.activate(LINEAGE, FLATTER.digest, expected=FLAT.digest, authority=OVERRIDE) == 2
