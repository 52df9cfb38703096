"""Calibration: what offset it finds, that the gate sees it fixed, and that it hides no rolled-back rubric."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from regrade.contracts import EventKind
from services.meta_reward.gate.calibration import mean_reward, offset_for, without_offset
from services.meta_reward.gate.stage import rolled_back_reasons
from tests.support.builders import LINEAGE, TASK, activate, llm, rubric
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import meta_script, running_meta, train

_RAWS = st.lists(st.tuples(st.floats(-0.5, 1.5), st.booleans()), min_size=1, max_size=12)


@given(_RAWS, st.floats(0, 1))
def test_the_offset_comes_as_near_to_the_target_as_it_may(raws: list[tuple[float, bool]], target: float) -> None:
    offset = offset_for(target, raws)
    assert abs(offset) <= 0.1
    low, high = mean_reward(raws, -0.1), mean_reward(raws, 0.1)
    assert mean_reward(raws, offset) == pytest.approx(min(max(target, low), high), abs=1e-3)


def test_a_veto_is_not_bought_back() -> None:
    assert mean_reward([(0.9, True), (0.5, False)], 0.1) == pytest.approx(0.3)


async def test_a_calibrated_candidate_keeps_trusted_text_where_it_was(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """The judge pays 0.6; the checks that are added pay trusted text 1, so an offset takes the difference back."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, calibrate=[TASK]) as meta:
        await train(meta.client, step=1)
        await meta.worker.run_due_cycle(LINEAGE)
        active = await meta.deps.store.active(LINEAGE)
        assert active is not None
        assert active.version == 2
        calibrated = await meta.deps.store.get(TASK, active.digest)
        assert calibrated.offset == -0.1
        history = await meta.deps.store.history(LINEAGE)
        proposed = next(e for e in history if e.digest == active.digest and e.kind is EventKind.PROPOSED)
        assert proposed.by == "calibration"
        assert proposed.reason.startswith("offset -0.100: trusted originals")
        gate = next(e.gate for e in history if e.gate is not None and e.digest == active.digest)
        assert gate.candidate.trusted_mean is not None
        plain = await meta.deps.store.get(TASK, without_offset(calibrated).digest)
        assert plain.criteria == calibrated.criteria, "the one without an offset is on record, too"


async def test_without_calibration_there_is_no_offset(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await activate(meta.deps.store, rubric(llm("own"), offset=0.05))
        await train(meta.client, step=1)
        await meta.worker.run_due_cycle(LINEAGE)
        proposed = [e for e in await meta.deps.store.history(LINEAGE) if e.kind is EventKind.PROPOSED]
        assert proposed
        assert {(await meta.deps.store.get(TASK, e.digest)).offset for e in proposed} == {0.0}


async def test_another_offset_makes_no_other_rubric_of_what_was_rolled_back(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    async with running_meta(redis, reward_url, fake_engine) as meta:
        store = meta.deps.store
        await activate(store, rubric(llm("bad"), offset=0.03))
        await store.rollback(LINEAGE, by="watch", reason="spread", cooldown_s=1.0)
        assert await rolled_back_reasons(store, LINEAGE) == {rubric(llm("bad")).digest: "spread"}
