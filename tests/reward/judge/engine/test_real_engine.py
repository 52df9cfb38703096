"""The judge on the real llama.cpp engine with a real small model."""

import pytest

from regrade import RewardClient
from regrade.contracts import Mode
from regrade.tasks import load_pack
from services.kit.http.client import JsonClient, open_session
from services.kit.store.rubric_store import RubricStore
from services.reward.judge.engine.base import EngineAnswer
from services.reward.judge.engine.openai import OpenAIEngine
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, activate, llm, rubric

pytestmark = pytest.mark.engine
MESSAGES = [{"role": "user", "content": "How good are cats, from 0 to 5? Answer with one digit."}]
CHOICES = tuple("012345")
PATIENT_S = 240.0
"""Seconds for a judge call: on a busy machine the model is slow."""


async def test_the_plain_dialect_does_too(engine_url: str) -> None:
    """A server of unknown kind: the mass that an unconstrained answer leaves to the choices, renormalised."""
    async with open_session(connections=2, timeout_s=60.0) as session:
        plain = OpenAIEngine(JsonClient(session, engine_url), "SmolLM2-135M-Instruct")
        (answer,) = await plain.choose([MESSAGES], CHOICES)
    assert isinstance(answer, EngineAnswer)
    assert sum(answer.value[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("mode", [Mode.REASONED, Mode.PLANNED])
async def test_modes_that_write_first(start_reward: StartReward, engine_url: str, mode: Mode) -> None:
    """A reward and, where asked for, its rationale; a planned group shares one plan."""
    service = start_reward(
        judge_url=engine_url, bootstrap_tasks=[TASK], rationale_words=12, plan_words=12, judge_timeout_s=PATIENT_S
    )
    items = [{"id": str(n), "prompt": PROMPT, "completion": f"{ESSAY} {n}"} for n in range(2)]
    async with RewardClient(service.url, timeout_s=PATIENT_S) as client:
        response = await client.score(TASK, items, run="r", step=1, mode=mode, explain=True)
    assert all(result.reward is not None and 0.0 <= result.reward <= 1.0 for result in response.results)
    assert all(result.criteria[0].rationale for result in response.results)
    assert response.usage.judge_calls == (4 if mode is Mode.REASONED else 5)


async def test_siblings_reuse_the_slot_that_knows_their_response(
    start_reward: StartReward, store: RubricStore, engine_url: str
) -> None:
    """Five criteria of four responses on four slots: each response is computed about once, not once a criterion."""
    await activate(store, rubric(*(llm(name) for name in ("depth", "order", "support", "style", "ending"))))
    service = start_reward(judge_url=engine_url, judge_in_flight=4, judge_timeout_s=PATIENT_S)
    openings = [" ".join(original.completion.split()[:60]) for original in load_pack(TASK).originals[:4]]
    items = [{"id": str(n), "prompt": PROMPT, "completion": text} for n, text in enumerate(openings)]
    async with RewardClient(service.url, timeout_s=PATIENT_S) as client:
        usage = (await client.score(TASK, items, run="siblings", step=1)).usage
    assert usage.judge_calls == 20
    assert usage.prompt_tokens - usage.cached_tokens < 0.3 * usage.prompt_tokens


async def test_scores_through_the_service(start_reward: StartReward, engine_url: str) -> None:
    """Rewards in [0, 1]; the second completion of a prompt reuses the prefix of the first."""
    service = start_reward(judge_url=engine_url, bootstrap_tasks=[TASK], judge_in_flight=1, judge_timeout_s=PATIENT_S)
    async with RewardClient(service.url, timeout_s=PATIENT_S) as client:
        items = [{"id": str(n), "prompt": PROMPT, "completion": f"{ESSAY} {n}"} for n in range(3)]
        response = await client.score(TASK, items, run="r", step=1)
    assert all(result.reward is not None and 0.0 <= result.reward <= 1.0 for result in response.results)
    assert all(0.0 <= (result.criteria[0].confidence or -1.0) <= 1.0 for result in response.results)
    assert response.usage.judge_calls == response.usage.completion_tokens == 3
    assert response.usage.cached_tokens > 200
