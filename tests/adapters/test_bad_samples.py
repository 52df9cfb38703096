"""Every adapter beside a sample that cannot be scored: the others have rewards, it has none, and the reason is kept."""

import asyncio
import json
import logging
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from regrade import RegradeError
from regrade.adapters import areal, art, ms_swift, open_instruct, skyrl, verl
from regrade.adapters import core as adapters_core
from regrade.adapters.core import close_client_threads
from regrade.adapters.trl import RegradeReward
from services.kit.store.trace_log import TraceLog
from tests.adapters.test_functions import Group, GroupRubric, Orm, Trajectory, Verifier
from tests.support.builders import ESSAY, PROMPT, TASK
from tests.support.fake_engine import FakeEngine, certain

USER: list[Any] = [{"role": "user", "content": PROMPT}]
Outcome = float | str | None
"""A reward, NaN, None, or the text of the exception."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, reward_url: str, fake_engine: FakeEngine) -> Iterator[None]:
    for name, value in {"TASK": TASK, "RUN": "run-1", "URL": reward_url, "PATIENCE_S": "2"}.items():
        monkeypatch.setenv(f"REGRADE_{name}", value)
    fake_engine.script = lambda _: certain(4)
    adapters_core._warn_once.cache_clear()
    yield
    close_client_threads()


class Rewards(ms_swift.RegradeORM, Orm):
    pass


class Verification(open_instruct.RegradeVerifier, Verifier):
    pass


async def _one(call: Callable[[], Awaitable[Any]]) -> Outcome:
    try:
        return float(await call())
    except RegradeError as error:
        return str(error)


async def _trl(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    prompts, completions, references = ([sample[i] for sample in samples] for i in range(3))
    return list(await asyncio.to_thread(RegradeReward(), prompts, completions, reference=references))


async def _ms_swift(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    """Each sample is a group of one, since a group is left out as a whole."""
    messages = [[*prompt, {"role": "assistant", "content": completion}] for prompt, completion, _ in samples]
    columns: dict[str, Any] = {
        "messages": messages,
        "reference": [sample[2] for sample in samples],
        "prompt_id": [str(index) for index in range(len(samples))],
    }
    return list(await Rewards(SimpleNamespace(num_generations=1))([sample[1] for sample in samples], **columns))


async def _verl(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    async def score(prompt: Any, completion: Any, reference: Any) -> float:
        return float((await verl.compute_score("x", completion, reference, {"prompt": prompt}))["score"])

    return [await _one(lambda s=sample: score(*s)) for sample in samples]  # type: ignore[misc]


async def _verifiers(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    names = ("prompt", "completion", "answer")
    states: list[dict[str, Any]] = [dict(zip(names, sample, strict=True)) for sample in samples]
    await GroupRubric().score_group(states)
    return [str(state["error"]) if state.get("error") else float(state["reward"]) for state in states]


async def _areal(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    reward = areal.AsyncRegradeReward()
    return [await _one(lambda s=sample: reward(s[0], s[1], reference=s[2])) for sample in samples]  # type: ignore[misc]


async def _open_instruct(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    async def score(prompt: Any, completion: Any, reference: Any) -> float:
        return (await Verification().async_call([1], completion, reference, prompt)).score

    return [await _one(lambda s=sample: score(*s)) for sample in samples]  # type: ignore[misc]


async def _skyrl(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    async def score(prompt: Any, completion: Any, reference: Any) -> float:
        environment = skyrl.RegradeEnv({}, {"reward_spec": {"ground_truth": reference}})
        environment.init(prompt)
        return float((await asyncio.to_thread(environment.step, completion))["reward"])

    return [await _one(lambda s=sample: score(*s)) for sample in samples]  # type: ignore[misc]


async def _openrlhf(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    rendered = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    query = [f"{rendered}{text}<|im_end|>" if isinstance(text, str) else text for _, text, _ in samples]
    body = {"query": query, "prompts": [rendered] * len(samples), "labels": [label for _, _, label in samples]}
    answer = await _post("openrlhf", body)
    return [math.nan if reward is None else reward for reward in answer["rewards"]]


async def _slime(samples: list[tuple[Any, Any, Any]]) -> list[Outcome]:
    return [await _post("slime", {"prompt": p, "response": c, "label": r}) for p, c, r in samples]


async def _post(path: str, body: dict[str, Any]) -> Any:
    """As ASCII JSON, so that half of a surrogate pair reaches the service."""
    async with httpx.AsyncClient(base_url=os.environ["REGRADE_URL"], timeout=60.0) as http:
        params = {"task": TASK} if path.startswith("nemo-gym") else {"task": TASK, "unscored": "nan"}
        headers = {"Content-Type": "application/json"}
        answer = await http.post(f"/adapters/{path}", content=json.dumps(body), params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text)  # Python's parser reads NaN


FUNCTIONS = [_trl, _ms_swift, _verl, _verifiers, _areal, _open_instruct, _skyrl]
ROUTES = [_openrlhf, _slime]
COMPLETIONS: list[Any] = [None, 5, [], "half \ud83d", [{"role": "assistant", "content": "x"}] * 300, {"a": 1}]
LABELS: list[Any] = [["5"], {"target": "5"}]


def _is_unscored(outcome: Outcome) -> bool:
    """No number that a trainer would take for a reward; an exception names the kind."""
    if isinstance(outcome, str):
        return outcome.startswith("invalid_item")
    return outcome is None or math.isnan(outcome)


@pytest.mark.parametrize("adapter", FUNCTIONS + ROUTES)
@pytest.mark.parametrize("bad", COMPLETIONS, ids=lambda value: type(value).__name__)
async def test_a_bad_completion_costs_itself_alone(adapter: Any, bad: Any) -> None:
    first, unscored, last = await adapter([(USER, ESSAY, None), (USER, bad, None), (USER, f"{ESSAY} Two.", None)])
    assert (first, last) == (0.8, 0.8)
    assert _is_unscored(unscored)


@pytest.mark.parametrize("adapter", FUNCTIONS + ROUTES)
async def test_a_completion_of_any_length_is_a_zero_with_its_flag(adapter: Any, trace_log: TraceLog) -> None:
    assert await adapter([(USER, ESSAY, None), (USER, "x" * 201_000, None)]) == [0.8, 0.0]
    assert {trace.flags for trace in (await trace_log.recent(TASK, 10)).traces} == {(), ("too_long",)}


@pytest.mark.parametrize("adapter", FUNCTIONS + ROUTES)
@pytest.mark.parametrize("label", LABELS, ids=lambda value: type(value).__name__)
async def test_a_label_that_is_no_reference_costs_its_sample_alone(adapter: Any, label: Any) -> None:
    good, unscored = await adapter([(USER, ESSAY, "x"), (USER, f"{ESSAY} Two.", label)])
    assert good == 0.8
    assert _is_unscored(unscored)


@pytest.mark.parametrize("adapter", FUNCTIONS)
async def test_labels_are_references_by_one_rule(adapter: Any, trace_log: TraceLog) -> None:
    labels = ["5", 5, np.int64(5), 5.5, True, "", None, math.nan]
    samples = [(USER, f"{ESSAY} {n}", label) for n, label in enumerate(labels)]
    assert await adapter(samples) == [0.8] * len(labels)
    references = {str(trace.completion)[-1]: trace.reference for trace in (await trace_log.recent(TASK, 20)).traces}
    assert [references[str(n)] for n in range(len(labels))] == ["5", "5", "5", "5.5", "True", None, None, None]


@pytest.mark.parametrize("adapter", ROUTES)
async def test_labels_of_the_routes_follow_the_same_rule(adapter: Any, trace_log: TraceLog) -> None:
    labels = ["5", 5, 5.5, True, "", None, math.nan]
    assert await adapter([(USER, f"{ESSAY} {n}", label) for n, label in enumerate(labels)]) == [0.8] * len(labels)
    references = {str(trace.completion)[-1]: trace.reference for trace in (await trace_log.recent(TASK, 20)).traces}
    assert [references[str(n)] for n in range(len(labels))] == ["5", "5", "5.5", "True", None, None, None]


SHAPES: list[Any] = [
    [{"role": "user", "content": ["Look:", {"type": "image"}]}],
    [{"role": "developer", "name": "me", "content": "Be brief."}, *USER],
    [*USER, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
     {"role": "tool", "content": {"ok": True}}],
    [{"content": PROMPT}],
    ({"role": "user", "content": PROMPT},),
]  # fmt: skip


@pytest.mark.parametrize("adapter", [*(f for f in FUNCTIONS if f is not _ms_swift), _slime])
@pytest.mark.parametrize("prompt", SHAPES, ids=range(len(SHAPES)))
async def test_prompts_are_read_in_any_shape(adapter: Any, prompt: Any) -> None:
    assert await adapter([(prompt, ESSAY, None)]) == [0.8]


async def test_the_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "regrade"):
        for adapter in FUNCTIONS:
            await adapter([(USER, ESSAY, {"target": "5"})])
    messages = [record.getMessage() for record in caplog.records if record.name == "regrade"]
    assert len(messages) == 1
    assert "invalid_item: reference: dict {'target': '5'}: give one text or number" in messages[0]


async def test_art_leaves_a_bad_trajectory_out() -> None:
    turns: list[Any] = [{"role": "assistant", "content": text} for text in (ESSAY, b"bytes", f"{ESSAY} Two.")]
    group = Group(trajectories=[Trajectory.model_construct(turns=[*USER, turn], metrics={}) for turn in turns])
    scored = await art.score_group(group)
    assert [trajectory.reward for trajectory in scored.trajectories] == [0.8, 0.8]


async def test_nemo_gyms_row_comes_back_whatever_it_holds() -> None:
    written = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "half \ud83d"}]}
    row = {"responses_create_params": {"input": USER}, "response": {"output": [written]}, "note": "half \udc00"}
    answer = await _post("nemo-gym/verify", row)
    assert {name: answer[name] for name in row} == row
    assert "invalid_item" in json.dumps(answer)


def test_trls_metrics_count_a_bad_sample() -> None:
    metrics: dict[str, float] = {}
    completions: list[Any] = [ESSAY, None]
    rewards = RegradeReward()([USER] * 2, completions, log_metric=metrics.__setitem__)
    assert rewards == [0.8, None]
    assert metrics["regrade/unscored_share"] == 0.5
    assert metrics["regrade/rubric_version"] == 1.0
