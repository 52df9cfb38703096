"""I3: a reward lies in [0, 1] for every rubric; what could not be judged is null, and nowhere in the traces."""

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrade import RewardClient, Rubric
from regrade.contracts import ErrorCode
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.reward.scoring.aggregate import aggregate
from tests.conftest import StartReward
from tests.support.builders import TASK, activate, item, llm, min_words, rubric
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text, certain, chat


@st.composite
def _rubrics(draw: st.DrawFn) -> Rubric:
    criteria = [llm("award", weight=draw(st.floats(0.1, 100)))]
    room = criteria[0].weight
    for number in range(draw(st.integers(0, 4))):
        role = draw(st.sampled_from(("award", "deduct", "veto")))
        fields: dict[str, Any] = {"role": role, "weight": draw(st.floats(0, 100))}
        if role == "veto":
            fields["threshold"] = draw(st.floats(0.01, 1))
        if role == "deduct":
            fields["weight"] = min(fields["weight"], room)
            room -= fields["weight"]
        criteria.append(llm(f"c{number}", **fields))
    return rubric(*criteria, offset=draw(st.floats(-0.1, 0.1)))


@given(_rubrics(), st.data())
def test_i3_reward_in_unit_interval_for_every_rubric(candidate: Rubric, data: st.DataObject) -> None:
    scores = {criterion.id: data.draw(st.floats(0, 1)) for criterion in candidate.criteria}
    assert 0.0 <= aggregate(candidate, scores).reward <= 1.0


def test_i3_a_missing_criterion_is_no_reward() -> None:
    with pytest.raises(KeyError):
        aggregate(rubric(llm("a"), llm("b")), {"a": 1.0})


async def test_i3_engine_killed_in_mid_batch(
    start_reward: StartReward, store: RubricStore, trace_log: TraceLog, fake_engine: FakeEngine
) -> None:
    """Some items are judged before the engine dies: those have a reward, the others null and judge_unavailable."""
    await activate(store, rubric(llm()))
    service = start_reward(judge_in_flight=2)
    answered = 0

    def dies_after_two(messages: Messages) -> Reply:
        nonlocal answered
        answered += 1
        return by_text(messages) if answered <= 2 else Reply(hang=True)

    fake_engine.script = dies_after_two
    async with RewardClient(service.url, patience_s=0.0) as client:
        batch = asyncio.create_task(client.score(TASK, [item(n, id=str(n)) for n in range(8)], run="r", step=1))
        await asyncio.to_thread(fake_engine.wait_for_calls, 4)
        await asyncio.to_thread(fake_engine.stop)
        response = await batch
    rewarded = [result for result in response.results if result.reward is not None]
    failed = [result for result in response.results if result.reward is None]
    assert len(rewarded) == 2
    assert {result.error.code for result in failed if result.error} == {ErrorCode.JUDGE_UNAVAILABLE}
    assert all(result.error and result.error.retryable and result.raw is None for result in failed)
    traced = {trace.item_id: trace.reward for trace in (await trace_log.recent(TASK, 100)).traces}
    assert traced == {result.id: result.reward for result in rewarded}


async def test_i3_judge_away_is_503_with_retry_after(reward_url: str, fake_engine: FakeEngine) -> None:
    async with httpx.AsyncClient(base_url=reward_url) as http:
        assert (await http.post("/score", json={"task": TASK, "items": [item()]})).status_code == 200
        fake_engine.stop()
        answer = await http.post("/score", json={"task": TASK, "items": [item(1)]})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["error"] == ErrorCode.JUDGE_UNAVAILABLE


@pytest.mark.parametrize(
    "reply",
    [
        chat("5"),
        chat("4", {"token": "4", "prob": 1.0, "top_probs": [{"token": "yes", "prob": 1.0}]}),
        chat("4", {"token": "4", "prob": 1.0, "top_probs": [{"token": "4", "prob": float("nan")}]}),
        Reply(b"<score>5</score>"),
        Reply({"choices": []}),
    ],
    ids=["no probabilities", "no level among them", "NaN", "no JSON", "no choice"],
)
async def test_i3_malformed_judge_answer_is_null(
    client: RewardClient, fake_engine: FakeEngine, trace_log: TraceLog, reply: Reply
) -> None:
    fake_engine.script = lambda _: reply
    result = (await client.score(TASK, [item()], run="r", step=1)).results[0]
    assert result.reward is None
    assert result.error is not None
    assert result.error.code is ErrorCode.JUDGE_MALFORMED
    assert (await trace_log.recent(TASK, 10)).traces == []


async def test_i3_one_failed_criterion_keeps_its_siblings(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, rubric(llm("style"), llm("depth"), min_words(5)))
    fake_engine.script = lambda m: Reply({}, 400) if m[1]["content"].endswith("Criterion: Depth") else certain(5)
    async with RewardClient(start_reward().url) as client:
        result = (await client.score(TASK, [item()], run="r", step=1)).results[0]
    assert result.reward is None
    assert result.error is not None
    assert result.error.code is ErrorCode.JUDGE_REFUSED
    assert {c.id: c.score for c in result.criteria} == {"style": 1.0, "depth": None, "min_words": 1.0}
