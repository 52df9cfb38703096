"""I5: every training item that received a reward leaves exactly one trace, through retries and killed processes."""

import asyncio
from collections import Counter

import pytest

from regrade import RewardClient, ServiceUnavailableError
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from tests.conftest import SpawnReward, StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, activate, item, llm, rubric
from tests.support.fake_engine import FakeEngine


async def _traces_by_item(trace_log: TraceLog) -> Counter[str]:
    return Counter(trace.item_id for trace in (await trace_log.recent(TASK, 1_000)).traces)


async def test_i5_a_retry_is_answered_from_the_stored_outcome(
    client: RewardClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    items = [item(n, id=str(n)) for n in range(4)]
    first = await client.score(TASK, items, run="r", step=1)
    fake_engine.forget()
    again = await client.score(TASK, items, run="r", step=1)
    assert fake_engine.calls == []
    assert again.usage.judge_calls == 0
    assert all(result.cached for result in again.results)
    assert [r.reward for r in again.results] == [r.reward for r in first.results]
    assert [r.trace_id for r in again.results] == [r.trace_id for r in first.results]
    assert await _traces_by_item(trace_log) == {str(n): 1 for n in range(4)}


async def test_i5_concurrent_equals_leave_one_trace_and_one_reward(
    start_reward: StartReward, store: RubricStore, trace_log: TraceLog
) -> None:
    await activate(store, rubric(llm()))
    replicas = [start_reward(), start_reward()]
    items = [item(n, id=str(n)) for n in range(4)]
    async with RewardClient(replicas[0].url) as one, RewardClient(replicas[1].url) as other:
        answers = await asyncio.gather(*(c.score(TASK, items, run="r", step=1) for c in (one, other) * 6))
    assert len({tuple(result.reward for result in answer.results) for answer in answers}) == 1
    assert await _traces_by_item(trace_log) == {str(n): 1 for n in range(4)}


async def test_i5_identical_completions_of_a_group_stay_separate(client: RewardClient, trace_log: TraceLog) -> None:
    """A service call without ids, as a third-party trainer makes it: three equal completions are three items."""
    body = {"task": TASK, "run": "r", "step": 1, "items": [{"prompt": PROMPT, "completion": ESSAY}] * 3}
    for _ in range(2):
        answer = await client.call("POST", "/score", dict[str, object], json=body)
        assert len({str(result["trace_id"]) for result in answer["results"]}) == 3  # type: ignore[attr-defined]
    assert await _traces_by_item(trace_log) == {"#0": 1, "#1": 1, "#2": 1}


async def test_i5_a_replica_killed_in_mid_batch(
    spawn_reward: SpawnReward, store: RubricStore, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    """SIGKILL while the judge works, then again after the write and before the answer; another replica takes over."""
    await activate(store, rubric(llm()))
    first, second = spawn_reward(), spawn_reward()
    items = [item(n, id=str(n)) for n in range(6)]
    async with RewardClient(first.url, patience_s=0.0) as client:
        fake_engine.hold()
        batch = asyncio.create_task(client.score(TASK, items, run="r", step=1))
        await asyncio.to_thread(fake_engine.wait_for_calls, 6)
        first.kill()
        with pytest.raises(ServiceUnavailableError):
            await batch
    assert await _traces_by_item(trace_log) == {}
    fake_engine.release()
    async with RewardClient(second.url) as client:
        answer = await client.score(TASK, items, run="r", step=1)
        assert await _traces_by_item(trace_log) == {str(n): 1 for n in range(6)}
    second.kill()
    third = spawn_reward()
    async with RewardClient(third.url) as client:
        again = await client.score(TASK, items, run="r", step=1)
    assert [r.reward for r in again.results] == [r.reward for r in answer.results]
    assert all(result.cached for result in again.results)
    assert await _traces_by_item(trace_log) == {str(n): 1 for n in range(6)}


async def test_i5_shadow_and_eval_scores_are_no_training_items(client: RewardClient, trace_log: TraceLog) -> None:
    """An item scored for evaluation or in shadow first still leaves its training trace."""
    items = [item(0, id="0")]
    await client.score(TASK, items, run="r", step=1, purpose="eval")
    await client.score(TASK, items, run="r", step=1, rubric=rubric(llm("other")), purpose="shadow")
    assert [trace.purpose for trace in (await trace_log.recent(TASK, 10)).traces] == ["eval"]
    trained = await client.score(TASK, items, run="r", step=1)
    assert not trained.results[0].cached
    assert sorted(trace.purpose for trace in (await trace_log.recent(TASK, 10)).traces) == ["eval", "train"]
