"""A batch's way through `/score`: order, repeats, retries of what failed, what is kept of an item."""

import asyncio
from typing import Any

import pytest

from regrade import RequestError, RewardClient, ScoreItem, ServiceUnavailableError
from regrade.contracts import Message
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, activate, check, checks_only, item, llm, min_words, rubric, veto
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain


async def test_scores_in_request_order(client: RewardClient, fake_engine: FakeEngine, trace_log: TraceLog) -> None:
    response = await client.score(TASK, [item(n, id=f"i{n}") for n in range(4)], run="r", step=1)
    assert [result.id for result in response.results] == ["i0", "i1", "i2", "i3"]
    assert all(result.reward is not None and 0.0 <= result.reward <= 1.0 for result in response.results)
    assert response.usage.judge_calls == len(fake_engine.calls) == 4
    assert len((await trace_log.recent(TASK, 10)).traces) == 4


async def test_an_answer_always_has_the_same_keys(client: RewardClient, fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda m: Reply(b"garbage") if "version 1" in m[1]["content"] else certain(5)
    body = {"task": TASK, "items": [item(0), item(1), item(2, completion="")]}
    answer = await client.call("POST", "/score", dict[str, Any], json=body)
    results = answer["results"]
    assert set(answer) == {"results", "usage", "degraded"}
    keys = {"id", "reward", "raw", "rubric", "criteria", "flags", "error", "trace_id", "cached"}
    assert [set(result) for result in results] == [keys] * 3
    assert [result["reward"] for result in results] == [1.0, None, 0.0]


async def test_a_trace_holds_the_item_as_it_came(client: RewardClient, trace_log: TraceLog) -> None:
    turns = (Message(role="system", content="Be brief."), Message(role="user", content=PROMPT))
    labels: dict[str, Any] = {"dataset": "essays", "length": 3, "hard": True, "score": 0.5, "note": None}
    sent = ScoreItem(id="a", prompt=turns, completion=ESSAY, group="g", reference="r", truncated=True, metadata=labels)
    (result,) = (await client.score(TASK, [sent], run="run", step=7)).results
    (trace,) = (await trace_log.recent(TASK, 10)).traces
    assert (trace.prompt, trace.completion, trace.reference, trace.group) == (turns, ESSAY, "r", "g")
    assert (trace.task, trace.run, trace.step, trace.item_id, trace.purpose) == (TASK, "run", 7, "a", "train")
    assert (trace.trace_id, trace.reward, trace.digest) == (result.trace_id, result.reward, result.rubric.digest)
    assert trace.metadata == labels
    assert (trace.criteria, trace.flags, trace.version) == (result.criteria, ("truncated",), 1)
    assert (trace.judge_model, trace.usage.judge_calls, trace.usage.prompt_tokens) == ("fake-judge", 1, 100)


async def test_a_group_not_given_is_the_prompts(client: RewardClient, trace_log: TraceLog) -> None:
    await client.score(TASK, [item(0, id="0"), item(1, id="1"), item(2, id="2", prompt="Another one.")])
    groups = {trace.item_id: trace.group for trace in (await trace_log.recent(TASK, 10)).traces}
    assert groups["0"] == groups["1"] != groups["2"]


async def test_i5_an_item_that_failed_is_scored_when_it_comes_again(
    client: RewardClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    """A null outcome is not stored: the retry asks the judge for the failed item, and for that alone."""
    broken = True

    def judge(messages: Messages) -> Reply:
        return Reply(b"garbage") if broken and "version 1" in messages[1]["content"] else certain(4)

    fake_engine.script = judge
    items = [item(n, id=str(n)) for n in range(3)]
    first = await client.score(TASK, items, run="r", step=1)
    assert [result.reward for result in first.results] == [0.8, None, 0.8]
    broken = False
    fake_engine.forget()
    again = await client.score(TASK, items, run="r", step=1)
    assert [(result.reward, result.cached) for result in again.results] == [(0.8, True), (0.8, False), (0.8, True)]
    assert len(fake_engine.calls) == again.usage.judge_calls == 1
    assert sorted(trace.item_id for trace in (await trace_log.recent(TASK, 10)).traces) == ["0", "1", "2"]


async def test_i5_a_503_leaves_nothing_behind(reward_url: str, fake_engine: FakeEngine, trace_log: TraceLog) -> None:
    fake_engine.script = lambda _: Reply(status=503)
    items = [item(n, id=str(n)) for n in range(3)]
    async with RewardClient(reward_url, patience_s=0.0) as client:
        with pytest.raises(ServiceUnavailableError, match="judge_unavailable"):
            await client.score(TASK, items, run="r", step=1)
        assert (await trace_log.recent(TASK, 10)).traces == []
        fake_engine.script = lambda _: certain(3)
        assert not any(result.cached for result in (await client.score(TASK, items, run="r", step=1)).results)
    assert len((await trace_log.recent(TASK, 10)).traces) == 3


async def test_i5_an_item_twice_in_a_batch_is_one_item(client: RewardClient, trace_log: TraceLog) -> None:
    first, second = (await client.score(TASK, [item(0, id="a"), item(0, id="a")], run="r", step=1)).results
    assert (first.trace_id, first.reward) == (second.trace_id, second.reward)
    assert len((await trace_log.recent(TASK, 10)).traces) == 1


@pytest.mark.parametrize(
    "fields",
    [{"id": "b"}, {"completion": "Another."}, {"prompt": "Another?"}, {"reference": "r"}, {"group": "g"}],
    ids=lambda fields: str(next(iter(fields))),
)
async def test_what_tells_two_items_apart(client: RewardClient, trace_log: TraceLog, fields: dict[str, str]) -> None:
    for request_item in (item(0, id="a"), item(0, id="a") | fields):
        (result,) = (await client.score(TASK, [request_item], run="r", step=1)).results
        assert not result.cached
    assert len((await trace_log.recent(TASK, 10)).traces) == 2


@pytest.mark.parametrize("place", [{"run": "other", "step": 1}, {"run": "r", "step": 2}, {"run": "r"}], ids=str)
async def test_the_same_item_elsewhere_is_another(
    client: RewardClient, trace_log: TraceLog, fake_engine: FakeEngine, place: dict[str, str | int]
) -> None:
    """Another run or step: a trace of its own, but no judge call, since the judge has seen that text."""
    await client.score(TASK, [item(0, id="a")], run="r", step=1)
    fake_engine.forget()
    (result,) = (await client.score(TASK, [item(0, id="a")], **place)).results
    assert not result.cached
    assert fake_engine.calls == []
    assert len((await trace_log.recent(TASK, 10)).traces) == 2


async def test_i5_a_retry_after_the_rubric_changed_is_answered_from_its_pin(
    client: RewardClient, store: RubricStore, trace_log: TraceLog
) -> None:
    first = await client.score(TASK, [item(0, id="a")], run="r", step=1)
    await activate(store, checks_only())
    again = await client.score(TASK, [item(0, id="a")], run="r", step=1)
    assert again.results[0] == first.results[0].model_copy(update={"cached": True})
    assert len((await trace_log.recent(TASK, 10)).traces) == 1


async def test_i2_concurrent_batches_of_one_replica_agree(client: RewardClient, store: RubricStore) -> None:
    requests = [client.score(TASK, [item(n, id=str(n))], run="r", step=1) for n in range(8)]
    answers, _ = await asyncio.gather(asyncio.gather(*requests), activate(store, checks_only()))
    assert len({answer.results[0].rubric.digest for answer in answers}) == 1


async def test_a_check_that_cannot_be_decided_is_null_and_costs_no_judge_call(
    client: RewardClient, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, rubric(llm(), check("same", {"check": "math_equal"}), min_words(3)))
    (result,) = (await client.score(TASK, [item()], run="r", step=1)).results
    assert result.reward is None
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("check_failed", False)
    assert {c.id: c.score for c in result.criteria} == {"quality": None, "same": None, "min_words": 1.0}
    assert fake_engine.calls == []


async def test_a_veto_of_the_judge_fires_at_its_threshold(
    client: RewardClient, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, rubric(llm("good"), llm("vile", role="veto", threshold=0.6)))
    level = {"1": 3, "0": 2}
    fake_engine.script = lambda m: certain(
        5 if m[1]["content"].endswith("Criterion: Good") else level["1" if "version 1" in m[1]["content"] else "0"]
    )
    spared, struck = (await client.score(TASK, [item(0), item(1)], run="r", step=1)).results
    assert (spared.reward, spared.flags) == (1.0, ())
    assert (struck.reward, struck.flags) == (0.0, ("vetoed",))
    assert struck.raw == 1.0


async def test_a_fired_veto_outweighs_a_check_that_failed(client: RewardClient, store: RubricStore) -> None:
    await activate(
        store, rubric(llm(), check("same", {"check": "math_equal"}), veto("end", {"check": "ends_properly"}))
    )
    (result,) = (await client.score(TASK, [item(0, completion="It stops in")], run="r", step=1)).results
    assert (result.reward, result.error, result.flags) == (0.0, None, ("vetoed",))


async def test_purposes_leave_what_they_should(
    client: RewardClient, store: RubricStore, trace_log: TraceLog, fake_engine: FakeEngine
) -> None:
    """Shadow leaves neither trace nor pin; evaluation by a named rubric leaves a trace and no pin."""
    await client.score(TASK, [item(0, id="a")], run="r", step=1, rubric=checks_only(), purpose="shadow")
    assert (await trace_log.recent(TASK, 10)).traces == []
    await client.score(TASK, [item(0, id="a")], run="r", step=1, rubric=1, purpose="eval")
    assert [trace.purpose for trace in (await trace_log.recent(TASK, 10)).traces] == ["eval"]
    await activate(store, checks_only(7))
    trained = await client.score(TASK, [item(0, id="a")], run="r", step=1)
    assert trained.results[0].rubric.version == 2
    with pytest.raises(RequestError, match="names the rubric"):
        await client.score(TASK, [item()], purpose="shadow")


async def test_calls_at_once_are_bounded_and_shadow_yields(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    """A candidate's calls never take all the room, and those still to come wait until training has no more."""
    url = start_reward(bootstrap_tasks=[TASK], judge_in_flight=3, shadow_in_flight=2).url
    candidate = rubric(llm("other"))
    async with RewardClient(url) as client:
        fake_engine.hold()
        shadow = asyncio.create_task(
            client.score(TASK, [item(n) for n in range(9)], rubric=candidate, purpose="shadow")
        )
        await asyncio.to_thread(fake_engine.wait_for_calls, 2)
        training = asyncio.create_task(client.score(TASK, [item(n) for n in range(9)], run="r", step=1))
        await asyncio.to_thread(fake_engine.wait_for_calls, 3)
        fake_engine.release()
        for answer in await asyncio.gather(shadow, training):
            assert all(result.reward is not None for result in answer.results)
    assert fake_engine.peak == 3
    for_candidate = ["Criterion: Other" in messages[0]["content"] for messages in fake_engine.calls]
    assert len(for_candidate) == 18
    assert for_candidate[:2] == [True, True]
    assert for_candidate[2:11] == [False] * 9


async def test_a_look_outside_of_a_run_sees_what_is_active_now(client: RewardClient) -> None:
    """Evaluation in a run is pinned like training; a look without a run is not held to an earlier look's rubric."""
    looks = {"purpose": "eval"}
    before = await client.score(TASK, [item()], **looks)
    in_run = await client.score(TASK, [item()], run="r", step=1, **looks)
    await client.put_rubric(TASK, checks_only(9), by="me", reason="why")
    after = await client.score(TASK, [item()], **looks)
    later_in_run = await client.score(TASK, [item(1)], run="r", step=1, **looks)
    versions = [answer.results[0].rubric.version for answer in (before, in_run, after, later_in_run)]
    assert versions == [1, 1, 2, 1]
