"""The watch on real traces: what it judges an activation by, and that it judges it once."""

import asyncio

from redis.asyncio import Redis

from regrade.contracts import EventKind, GatePass
from regrade.tasks import load_pack
from services.kit.store import keys
from services.kit.store.redis import read_entries
from services.kit.store.rubric_store import RubricPointer, RubricStore, gate_event
from tests.support.builders import LINEAGE, TASK, activate, gate_report, item, llm, rubric
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text, certain
from tests.support.meta import Meta, meta_script, running_meta, train, working
from tests.support.waiting import until

OTHER = LINEAGE._replace(name="other")
FLAT = rubric(llm("flat"))
PATIENT = 1_000


def judge(messages: Messages) -> Reply:
    """Spread under any rubric but the flat one."""
    return certain(4) if "Flat" in messages[0]["content"] else by_text(messages)


async def pass_the_gate(store: RubricStore) -> RubricPointer:
    """Make the flat rubric active as a gate does; answers what was active before."""
    before = await store.active(LINEAGE)
    assert before is not None
    await store.put(TASK, FLAT)
    await store.record(LINEAGE, gate_event(gate_report(FLAT.digest, before.digest)))
    await store.activate(LINEAGE, FLAT.digest, expected=before.digest, authority=GatePass(cycle="c"))
    return before


async def active_digest(meta: Meta) -> str:
    active = await meta.deps.store.active(LINEAGE)
    assert active is not None
    return active.digest


async def test_watch_rolls_back_once_spread_is_gone(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.script = meta_script(judge)
    async with running_meta(redis, reward_url, fake_engine, every_traces=PATIENT) as meta:
        await train(meta.client, "A first try at the essay. ", step=1)
        await activate(meta.deps.store, load_pack(TASK).starting_rubric, lineage=OTHER)
        alike = [item(0, id=f"a{n}", group=f"g{n // 2}") for n in range(24)]
        await meta.client.score(TASK, alike, run="r", step=1, lineage=OTHER.name)
        before = await pass_the_gate(meta.deps.store)
        await train(meta.client, "A second try at the essay. ", step=2, count=7)
        await meta.worker.watch(LINEAGE)
        assert await active_digest(meta) == FLAT.digest, "seven traces are too few to judge by"
        await activate(meta.deps.store, FLAT, lineage=OTHER)
        await meta.client.score(TASK, [item(n, id=f"e{n}") for n in range(9)], run="r", step=3, purpose="eval")
        await meta.client.score(TASK, [item(n, id=f"x{n}") for n in range(9)], run="r", step=4, lineage=OTHER.name)
        await meta.worker.watch(LINEAGE)
        assert await active_digest(meta) == FLAT.digest, "evaluations and other lines do not count"
        await train(meta.client, "A third try at the essay. ", step=5, count=4)
        await meta.worker.watch(LINEAGE)
        assert await active_digest(meta) == before.digest
        last = (await meta.deps.store.history(LINEAGE))[-1]
        assert (last.kind, last.by) == (EventKind.ROLLED_BACK, "watch")
        assert "spread collapsed" in last.reason


async def test_watch_looks_past_what_other_lines_and_evaluations_left(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """However many newer traces the task has, an activation is judged by its own line's."""
    fake_engine.script = meta_script(judge)
    async with running_meta(redis, reward_url, fake_engine, every_traces=PATIENT) as meta:
        await train(meta.client, "A first try at the essay. ", step=1)
        before = await pass_the_gate(meta.deps.store)
        await train(meta.client, "A second try at the essay. ", step=2)
        evals = [item(n, id=f"e{n}") for n in range(40)]
        await meta.client.score(TASK, evals, run="r", step=3, purpose="eval")
        await meta.worker.watch(LINEAGE)
        assert await active_digest(meta) == before.digest


async def test_i8_a_verdict_outlives_the_worker(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """An activation that was let stand is not judged again, by whichever worker, from whatever comes later."""
    fake_engine.script = meta_script(by_text)
    async with running_meta(redis, reward_url, fake_engine, every_traces=PATIENT) as meta:
        await train(meta.client, "A first try at the essay. ", step=1)
        await pass_the_gate(meta.deps.store)
        await train(meta.client, "A second try at the essay. ", step=2)
        await meta.worker.watch(LINEAGE)
        assert await active_digest(meta) == FLAT.digest
        assert await redis.get(keys.watched_activation_key(LINEAGE)) == (await meta.deps.store.history(LINEAGE))[-1].id
    async with running_meta(redis, reward_url, fake_engine, every_traces=PATIENT) as meta:
        judged = await read_entries(redis, keys.traces_key(TASK), after=(await meta.deps.store.history(LINEAGE))[-1].id)
        assert await redis.xdel(keys.traces_key(TASK), *(entry_id for entry_id, _ in judged)) == 8
        fake_engine.script = meta_script(judge)
        await train(meta.client, "A third try at the essay. ", step=3)
        await meta.worker.watch(LINEAGE)
        assert await active_digest(meta) == FLAT.digest


async def test_watch_leaves_alone_what_it_did_not_judge(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """An operator activates another rubric just before the watch rolls back: the operator's stays."""
    fake_engine.script = meta_script(judge)
    async with running_meta(redis, reward_url, fake_engine, every_traces=PATIENT) as meta:
        await train(meta.client, "A first try at the essay. ", step=1)
        await pass_the_gate(meta.deps.store)
        await train(meta.client, "A second try at the essay. ", step=2)
        own = rubric(llm("own"))
        read = meta.deps.log.recent

        async def while_an_operator_acts(*args: object, **kwargs: object) -> object:
            await activate(meta.deps.store, own)
            return await read(*args, **kwargs)  # type: ignore[arg-type]

        meta.deps.log.recent = while_an_operator_acts  # type: ignore[assignment, method-assign]
        await meta.worker.watch(LINEAGE)
        assert await active_digest(meta) == own.digest


async def test_watch_works_while_a_cycle_runs(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """The cycle hangs in its meta-judge; what was activated meanwhile is judged and rolled back all the same."""
    held = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(messages: Messages) -> Reply:
        if len(messages) == 1:
            loop.call_soon_threadsafe(held.set)
            return Reply(hang=True)
        return judge(messages)

    fake_engine.script = script
    async with running_meta(redis, reward_url, fake_engine, llm=True, poll_s=0.05) as meta, working(meta.worker):
        await train(meta.client, "A first try at the essay. ", step=1)
        await asyncio.wait_for(held.wait(), 90.0)
        before = await pass_the_gate(meta.deps.store)
        await train(meta.client, "A second try at the essay. ", step=2)

        async def is_back() -> bool:
            return await active_digest(meta) == before.digest

        await until(is_back, "the watch to roll back")
        assert await meta.deps.status_store.reports(LINEAGE) == []
        fake_engine.stop()
