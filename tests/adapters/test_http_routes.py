"""The trainers' HTTP formats: what each sends, and the response or failure that it can handle."""

import asyncio
import base64
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from services.kit.store.trace_log import TraceLog
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain, distribution
from tests.support.waiting import until

QUERY = {"task": TASK, "run": "run-1"}
SHORT = "Trees are nice."
SLIME = {"prompt": PROMPT, "response": ESSAY, "label": None}


@pytest.fixture
async def http(reward_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=reward_url, timeout=60.0, params=QUERY) as client:
        yield client


def _openrlhf(*completions: str, labels: list[Any] | None = None) -> dict[str, Any]:
    """As OpenRLHF sends it: prompt and response rendered by the policy's template, special tokens kept."""
    prompt = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    return {
        "query": [f"{prompt}{completion}<|im_end|>" for completion in completions],
        "prompts": [prompt] * len(completions),
        "labels": labels or [""] * len(completions),
    }


def _verify(completion: str, **more: Any) -> dict[str, Any]:
    """A NeMo Gym row."""
    written = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": completion}]}
    params = {"input": [{"role": "user", "content": PROMPT}]}
    return {"responses_create_params": params, "response": {"id": "r", "output": [written]}} | more


async def test_openrlhf_gets_lists_of_numbers(http: httpx.AsyncClient, trace_log: TraceLog) -> None:
    answer = (await http.post("/adapters/openrlhf", json=_openrlhf(ESSAY, labels=["a reference"]))).json()
    assert set(answer) == {"rewards", "scores", "extra_logs"}
    assert 0.0 <= answer["rewards"][0] <= 1.0
    assert answer["scores"] == answer["rewards"]
    assert answer["extra_logs"] == {
        "regrade_scored": [1.0], "regrade_rubric_version": [1.0], "regrade_flags": [0.0],
    }  # fmt: skip
    (trace,) = (await trace_log.recent(TASK, 10)).traces
    assert (trace.run, trace.step, trace.completion, trace.reference) == ("run-1", None, ESSAY, "a reference")
    assert not isinstance(trace.prompt, str)
    assert [(turn.role, turn.content) for turn in trace.prompt] == [("user", PROMPT)]


async def test_openrlhf_empty_lists_are_answered(http: httpx.AsyncClient) -> None:
    """With several URLs, all but the first get these."""
    answer = await http.post("/adapters/openrlhf", json={"query": [], "prompts": [], "labels": []})
    assert (answer.status_code, answer.json()) == (200, {"rewards": [], "scores": [], "extra_logs": {}})


async def test_slime_gets_a_float_or_an_object(http: httpx.AsyncClient) -> None:
    bare = (await http.post("/adapters/slime", json=SLIME)).json()
    with_metrics = (await http.post("/adapters/slime", json=SLIME, params={"reply": "dict"})).json()
    assert isinstance(bare, float)
    assert with_metrics == {"score": bare, "regrade_scored": 1.0, "regrade_rubric_version": 1.0, "regrade_flags": 0.0}


async def test_nemo_gym_gets_its_row_back(http: httpx.AsyncClient) -> None:
    row = _verify(ESSAY, _ng_task_index=3, _ng_rollout_index=1, expected="x")
    answer = (await http.post("/adapters/nemo-gym/verify", json=row)).json()
    assert {name: answer[name] for name in row} == row
    assert answer["reward"] == answer["reward_components"]["quality"]
    assert answer["regrade_rubric_version"] == 1.0
    assert "_ng_failure_class" not in answer


async def test_nemo_gym_compares_a_group(http: httpx.AsyncClient, trace_log: TraceLog) -> None:
    """Equal responses of a group are items of their own."""
    responses = [_verify(text)["response"] for text in (ESSAY, SHORT, ESSAY)]
    body = {"conversation_history": [{"role": "user", "content": PROMPT}], "response_objs": responses}
    answer = (await http.post("/adapters/nemo-gym/compare", json=body)).json()
    assert len(answer["rewards"]) == 3
    assert answer["rewards"][0] == answer["rewards"][2] != answer["rewards"][1]
    assert answer["metrics"]["regrade_rubric_version"] == 1.0
    assert len((await trace_log.recent(TASK, 10)).traces) == 3


async def test_a_group_keeps_its_rubric(http: httpx.AsyncClient, fake_engine: FakeEngine, trace_log: TraceLog) -> None:
    """By the prompt, since these trainers send no step; turns and rendered text of one prompt are one group."""
    await http.post("/adapters/openrlhf", json=_openrlhf(ESSAY))
    await http.post("/adapters/slime", json=SLIME | {"response": SHORT})
    groups = {trace.group for trace in (await trace_log.recent(TASK, 10)).traces}
    assert len(groups) == 1


async def test_i5_a_retry_bills_and_traces_once(
    http: httpx.AsyncClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    """After the response was lost, and while the first try is in flight."""
    fake_engine.hold()
    first = asyncio.create_task(http.post("/adapters/slime", json=SLIME))
    await until(lambda: len(fake_engine.calls) > 0, "the first try to be judged")
    second = asyncio.create_task(http.post("/adapters/slime", json=SLIME))
    fake_engine.release()
    rewards = {(await first).json(), (await second).json(), (await http.post("/adapters/slime", json=SLIME)).json()}
    assert len(rewards) == 1
    assert len(fake_engine.calls) == 1
    assert len((await trace_log.recent(TASK, 10)).traces) == 1


async def test_i5_equal_samples_in_flight_are_one_item(
    http: httpx.AsyncClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    """These trainers send no ids, so a retry and a second equal completion look the same."""
    answers = await asyncio.gather(*(http.post("/adapters/slime", json=SLIME) for _ in range(4)))
    assert len({answer.json() for answer in answers}) == 1
    assert len(fake_engine.calls) == 1
    assert len((await trace_log.recent(TASK, 10)).traces) == 1


@pytest.mark.parametrize(("path", "body"), [
    ("openrlhf", _openrlhf(ESSAY)), ("slime", SLIME), ("nemo-gym/verify", _verify(ESSAY)),
])  # fmt: skip
async def test_a_sample_is_held_while_the_judge_is_away(
    http: httpx.AsyncClient, fake_engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    fake_engine.stop()
    request = asyncio.create_task(http.post(f"/adapters/{path}", json=body))
    done, _ = await asyncio.wait({request}, timeout=1.5)
    assert not done
    fake_engine.start()
    answer = await request
    assert answer.status_code == 200
    assert "_ng_failure_class" not in answer.text


@pytest.mark.parametrize(("path", "body"), [("openrlhf", _openrlhf(ESSAY)), ("slime", SLIME)])
async def test_i3_a_judge_that_stays_away_is_a_503(
    http: httpx.AsyncClient, fake_engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    fake_engine.stop()
    started = time.monotonic()
    answer = await http.post(f"/adapters/{path}", json=body, params={"hold_s": 1.2})
    assert (answer.status_code, answer.json()["error"]) == (503, "judge_unavailable")
    assert time.monotonic() - started > 0.3


async def test_a_slow_judge_is_waited_for_no_longer_than_hold_s(
    http: httpx.AsyncClient, fake_engine: FakeEngine
) -> None:
    fake_engine.hold()
    answer = await http.post("/adapters/slime", json=SLIME, params={"hold_s": 1})
    assert (answer.status_code, answer.json()["error"]) == (503, "judge_unavailable")
    fake_engine.release()
    assert (await http.post("/adapters/slime", json=SLIME)).status_code == 200
    assert len(fake_engine.calls) == 1


async def test_i3_nemo_gyms_null_is_never_traced(
    http: httpx.AsyncClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    fake_engine.script = lambda _: Reply(b"garbage")
    answer = await http.post("/adapters/nemo-gym/verify", json=_verify(ESSAY))
    row = answer.json()
    assert (answer.status_code, row["reward"], row["_ng_failure_class"]) == (200, 0.0, "judge_failed")
    assert row["_ng_failure_judge_error"].startswith("judge_malformed: ")
    assert (row["mask_sample"], row["failure_kind"], row["instance_config"]) == (
        True,
        "judge_failed",
        {"mask_sample": True},
    )
    assert row["failure_reason"] == row["_ng_failure_judge_error"]
    refused = await http.post("/adapters/nemo-gym/verify", json=_verify(ESSAY), params={"unscored": "error"})
    assert (refused.status_code, refused.json()["error"]) == (503, "judge_malformed")
    fake_engine.stop()
    away = (await http.post("/adapters/nemo-gym/verify", json=_verify(SHORT), params={"hold_s": 1})).json()
    assert away["_ng_failure_judge_error"].startswith("judge_unavailable: ")
    assert (await trace_log.recent(TASK, 10)).traces == []


async def test_i3_one_item_that_fails_is_an_error_or_nan(http: httpx.AsyncClient, fake_engine: FakeEngine) -> None:
    def judge(messages: Messages) -> Reply:
        return Reply(b"garbage") if SHORT in messages[1]["content"] else certain(4)

    fake_engine.script = judge
    body = _openrlhf(ESSAY, SHORT)
    refused = await http.post("/adapters/openrlhf", json=body)
    assert (refused.status_code, refused.json()["error"]) == (503, "judge_malformed")
    response = (await http.post("/adapters/openrlhf", json=body, params={"unscored": "nan"})).json()
    assert response["rewards"][0] == response["scores"][0] == 0.8
    assert math.isnan(response["rewards"][1])
    assert response["extra_logs"]["regrade_scored"] == [1.0, 0.0]
    slime = await http.post("/adapters/slime", json=SLIME | {"response": SHORT}, params={"unscored": "nan"})
    assert math.isnan(slime.json())


async def test_while_redis_is_away_a_sample_is_held(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    url = start_reward(redis_url="redis://127.0.0.1:9/0").url
    async with httpx.AsyncClient(base_url=url, params=QUERY, timeout=60.0) as http:
        answer = await http.post("/adapters/slime", json=SLIME, params={"hold_s": 1})
        assert (answer.status_code, answer.json()["error"]) == (503, "redis_unavailable")
        failed = (await http.post("/adapters/nemo-gym/verify", json=_verify(ESSAY), params={"hold_s": 1})).json()
        assert failed["_ng_failure_judge_error"].startswith("redis_unavailable: ")


@pytest.mark.parametrize(("path", "query", "body", "status", "code"), [
    ("openrlhf", {"task": "unheard-of"}, _openrlhf(ESSAY), 404, "unknown_task"),
    ("openrlhf", {"taks": "x"}, _openrlhf(ESSAY), 422, "invalid"),
    ("openrlhf", {}, {"query": ["a"], "prompts": []}, 422, "invalid"),
    ("openrlhf", {}, {"query": ["other text"], "prompts": ["a prompt"], "labels": [""]}, 422, "invalid_item"),
    ("slime", {"scope": "no such scope!"}, SLIME, 422, "invalid"),
    ("slime", {}, SLIME | {"response": None}, 422, "invalid_item"),
    ("slime", {}, SLIME | {"label": {"target": "5"}}, 422, "invalid_item"),
    ("nemo-gym/verify", {"unscored": "nan"}, _verify(ESSAY), 422, "invalid"),
])  # fmt: skip
async def test_what_a_retry_cannot_fix_is_refused_at_once(
    http: httpx.AsyncClient, path: str, query: dict[str, str], body: dict[str, Any], status: int, code: str
) -> None:
    answer = await http.post(f"/adapters/{path}", json=body, params=query)
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text


def _basic(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


KEY = "key-of-a-trainer"


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 401), ({"Authorization": f"Bearer {KEY}"}, 200), (_basic(f":{KEY}"), 200), (_basic(f"{KEY}:"), 200),
    (_basic(":other"), 401), ({"Authorization": "Basic ###"}, 401),
])  # fmt: skip
def test_a_key_may_stand_in_the_url(start_reward: StartReward, headers: dict[str, str], status: int) -> None:
    url = start_reward(bootstrap_tasks=[TASK], api_keys=[KEY]).url
    answer = httpx.post(f"{url}/adapters/slime", params=QUERY, json=SLIME, headers=headers, timeout=60.0)
    assert answer.status_code == status


@pytest.fixture
def vllm() -> Iterator[FakeEngine]:
    with closing(FakeEngine(dialect="vllm")) as engine:
        engine.script = lambda _: distribution([0.0, 0.1, 0.2, 0.3, 0.4, 0.0], dialect="vllm")
        yield engine


async def test_callers_of_one_sample_cost_the_judge_few_requests(start_reward: StartReward, vllm: FakeEngine) -> None:
    """64 at once: an eighth of the requests at most, where one request may hold many conversations."""
    wait_s = 0.3
    service = start_reward(bootstrap_tasks=[TASK], judge_url=vllm.url, trainer_batch_wait_s=wait_s)
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=service.url, params=QUERY, timeout=60.0, limits=limits) as http:
        requests = [http.post("/adapters/openrlhf", json=_openrlhf(f"{ESSAY} {n}")) for n in range(64)]
        answers = await asyncio.gather(*requests)
        assert all(answer.status_code == 200 for answer in answers)
        assert len(vllm.calls) == 64
        assert len(vllm.payloads) <= 8
        await http.post("/adapters/openrlhf", json=_openrlhf(SHORT))
        assert len(vllm.payloads) <= 9, "a caller alone waits for no others"
