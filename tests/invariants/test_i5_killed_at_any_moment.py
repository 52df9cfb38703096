"""I5 when a replica is killed early, late, or while it writes: whoever retries leaves one trace an item."""

import asyncio
from collections import Counter

import pytest

from regrade import RewardClient, ServiceUnavailableError
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from tests.conftest import SpawnReward, StartReward
from tests.support.builders import TASK, activate, item, llm, rubric
from tests.support.fake_engine import FakeEngine

ITEMS = 6


@pytest.mark.parametrize("calls", [1, ITEMS // 2, ITEMS], ids=["early", "halfway", "at the write"])
async def test_i5_killed_while_the_judge_answers(
    start_reward: StartReward,
    spawn_reward: SpawnReward,
    store: RubricStore,
    fake_engine: FakeEngine,
    trace_log: TraceLog,
    calls: int,
) -> None:
    await activate(store, rubric(llm()))
    survivor = start_reward()
    victim = spawn_reward(judge_in_flight=1)
    items = [item(n, id=str(n)) for n in range(ITEMS)]
    async with RewardClient(victim.url, patience_s=0.0) as client:
        batch = asyncio.create_task(client.score(TASK, items, run="r", step=1))
        await asyncio.to_thread(fake_engine.wait_for_calls, calls)
        victim.kill()
        (died,) = await asyncio.gather(batch, return_exceptions=True)
    if isinstance(died, BaseException):
        assert isinstance(died, ServiceUnavailableError)
    async with RewardClient(survivor.url) as client:
        first, second = [await client.score(TASK, items, run="r", step=1) for _ in range(2)]
    traces = (await trace_log.recent(TASK, 100)).traces
    assert Counter(trace.item_id for trace in traces) == {str(n): 1 for n in range(ITEMS)}
    assert {trace.item_id: trace.reward for trace in traces} == {r.id: r.reward for r in first.results}
    assert [r.reward for r in second.results] == [r.reward for r in first.results]
