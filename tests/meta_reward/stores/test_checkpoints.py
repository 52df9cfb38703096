"""Checkpoints: repeated saves write once, only under the fencing token; and when a cycle is abandoned."""

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from regrade import ServiceUnavailableError
from regrade.contracts import CycleReport, EventKind
from services.kit.errors import Conflict
from services.kit.store import keys
from services.kit.store.rubric_store import RubricStore, candidate_event, gate_event
from services.meta_reward import cycle_run
from services.meta_reward.evidence.window import build_evidence, summarise_window
from services.meta_reward.stores.checkpoints import Checkpoint, CheckpointStore
from services.meta_reward.stores.leases import Leases
from services.meta_reward.stores.status import StatusStore
from tests.support.builders import LINEAGE, TASK, gate_report, trace
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import Meta, meta_script, running_meta, train
from tests.support.waiting import until

ONE, TWO = "1" * 64, "2" * 64
STATE = Checkpoint(
    cycle="c", trigger="a test", request=None, started=1.0, window=("0-0", "9-0"), traces=3, active="0" * 64
)

REPORT = CycleReport(
    cycle="c",
    trigger="a test",
    started=1.0,
    finished=2.0,
    evidence=build_evidence(summarise_window([trace()], {}), {}, ("0-0", "9-0")),
    candidates=1,
    activated=ONE,
    notes=(),
)


async def test_saying_it_twice_changes_nothing(redis: Redis, store: RubricStore) -> None:
    """As after a lost response: one event each, and the stage's values."""
    events = [
        candidate_event(EventKind.PROPOSED, ONE, by="me", reason="why", cycle="c"),
        gate_event(gate_report(ONE, TWO)),
        gate_event(gate_report(TWO, ONE, passed=False)),
    ]
    async with Leases(redis).hold(LINEAGE) as token:
        assert token
        for _ in range(2):
            await CheckpointStore(redis).save(LINEAGE, token, STATE, events, {keys.alarms_key(LINEAGE): "[]"})
    history = await store.history(LINEAGE)
    assert [(event.kind, event.digest) for event in history] == [
        (EventKind.PROPOSED, ONE),
        (EventKind.GATED, ONE),
        (EventKind.REJECTED, TWO),
    ]
    assert await redis.hgetall(keys.gate_passes_key(LINEAGE)) == {ONE: TWO}
    assert await redis.get(keys.alarms_key(LINEAGE)) == "[]"
    assert await CheckpointStore(redis).load(LINEAGE) == STATE


async def test_i6_without_the_lease_nothing_is_written(redis: Redis) -> None:
    await redis.set(keys.lease_key(LINEAGE), "another's")
    event = candidate_event(EventKind.PROPOSED, ONE, by="me", reason="why", cycle="c")
    with pytest.raises(Conflict, match="lost its lease"):
        await CheckpointStore(redis).save(LINEAGE, "mine", STATE, [event], {keys.alarms_key(LINEAGE): "[]"})
    assert await redis.keys("*") == [keys.lease_key(LINEAGE)]


async def test_a_checkpoint_of_another_release_counts_as_none(redis: Redis) -> None:
    await redis.set(keys.checkpoint_key(LINEAGE), json.dumps({"cycle": "c", "unknown": True}))
    assert await CheckpointStore(redis).exists(LINEAGE)
    assert await CheckpointStore(redis).load(LINEAGE) is None


async def _fails_at_the_gate(meta: Meta, engine: FakeEngine) -> None:
    """Two tries at a cycle whose judge is away, from the gate on."""
    await train(meta.client)
    engine.stop()
    for _ in range(2):
        with pytest.raises(ServiceUnavailableError):
            await meta.worker.run_due_cycle(LINEAGE)
        meta.worker._backoff[LINEAGE].succeeded()
    engine.start()


async def _served_again(meta: Meta) -> None:
    """Wait until the judge is in service again."""

    async def is_back() -> bool:
        return (await meta.client.readiness())["judge"]

    await until(is_back, "the judge to be back in service")


async def test_a_stage_that_fails_again_and_again_is_given_up(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tries are allowed: the third worker abandons the cycle and begins another one on the same window."""
    monkeypatch.setattr(cycle_run, "STAGE_TRIES", 2)
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await _fails_at_the_gate(meta, fake_engine)
        assert await meta.deps.status_store.reports(LINEAGE) == []
        await _served_again(meta)
        await meta.worker.run_due_cycle(LINEAGE)
        abandoned, finished = await meta.deps.status_store.reports(LINEAGE)
        assert abandoned.abandoned == "2 tries at the stage after lint have failed"
        assert (abandoned.activated, finished.abandoned) == (None, None)
        assert finished.activated is not None
        assert finished.evidence.window == abandoned.evidence.window
        assert (await meta.deps.status_store.status(LINEAGE)).fruitless == 0


async def test_a_cycle_that_began_too_long_ago_is_given_up(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle_run, "RESUME_WITHIN_S", 60.0)
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await _fails_at_the_gate(meta, fake_engine)
        state = await meta.deps.checkpoints.load(LINEAGE)
        assert state is not None
        old = state.model_copy(update={"started": state.started - 61.0})
        await redis.set(keys.checkpoint_key(LINEAGE), old.model_dump_json())
        await _served_again(meta)
        await meta.worker.run_due_cycle(LINEAGE)
        abandoned, finished = await meta.deps.status_store.reports(LINEAGE)
        assert abandoned.abandoned == "it began more than 60 s ago"
        assert finished.cycle != abandoned.cycle


async def test_a_report_is_written_once(redis: Redis) -> None:
    status_store = StatusStore(redis)
    await redis.xadd(keys.traces_key(TASK), {"trace": "{}"}, id="5-0")
    await redis.xgroup_create(keys.traces_key(TASK), LINEAGE.label, id="0-0")
    async with Leases(redis).hold(LINEAGE) as token:
        assert token
        await CheckpointStore(redis).save(LINEAGE, token, STATE)
        for _ in range(2):
            await status_store.finish(LINEAGE, token, "5-0", REPORT, None)
    assert len(await status_store.reports(LINEAGE)) == 1
    assert (await status_store.status(LINEAGE)).fruitless == 0
    with pytest.raises(Conflict, match="lost its lease"):
        await status_store.finish(LINEAGE, "an old token", "5-0", REPORT, None)


async def test_an_activation_whose_answer_was_lost_is_told_as_one(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """The client repeats the call, as after a lost connection, and is refused because its own rubric is active."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        activate = meta.deps.store.activate

        async def asked_twice(*what: Any, **how: Any) -> int:
            await activate(*what, **how)
            return await activate(*what, **how)

        meta.deps.store.activate = asked_twice  # type: ignore[method-assign]
        await train(meta.client)
        await meta.worker.run_due_cycle(LINEAGE)
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        active = await meta.deps.store.active(LINEAGE)
        assert active is not None
        assert report.activated == active.digest
        history = await meta.deps.store.history(LINEAGE)
        assert history[-1].kind is EventKind.ACTIVATED
