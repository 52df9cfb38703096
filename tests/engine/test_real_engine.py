"""The judge on the real llama.cpp engine with a real small model."""

import pytest

from regrade import RewardClient
from regrade.contracts import Mode
from services.kit.http import JsonEndpoint, UpstreamError, UpstreamRefused, open_session
from services.reward.engine.base import ChoiceAnswer, Distribution, Sampling, TextAnswer
from services.reward.engine.llamacpp import LlamaCppEngine
from services.reward.engine.openai import OpenAIEngine
from services.reward.engine.probe import open_engine
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK

pytestmark = pytest.mark.engine
MESSAGES = [{"role": "user", "content": "How good are cats, from 0 to 5? Answer with one digit."}]
CHOICES = tuple("012345")


async def test_probe_and_distribution(engine_url: str) -> None:
    """The probed dialect gives the same distribution every time, over exactly the choices."""
    async with open_session(connections=2, timeout_s=60.0) as session:
        engine = await open_engine(JsonEndpoint(session, engine_url), dialect="auto", model="")
        assert isinstance(engine, LlamaCppEngine)
        assert engine.model == "SmolLM2-135M-Instruct"
        answers = [(await engine.choose([MESSAGES], CHOICES))[0] for _ in range(5)]
        for answer in answers:
            (levels,) = _distributions(answer)
            assert len(levels) == 6
            assert sum(levels) == pytest.approx(1.0)
            assert min(levels) > 0.0
            assert levels == pytest.approx(_distributions(answers[0])[0], abs=1e-3)
        plain = OpenAIEngine(JsonEndpoint(session, engine_url), engine.model)
        (levels,) = _distributions((await plain.choose([MESSAGES], CHOICES))[0])
        assert sum(levels) == pytest.approx(1.0)


async def test_a_conversation_that_fails_is_an_error_in_its_place(engine_url: str) -> None:
    too_long = [{"role": "user", "content": "word " * 20_000}]
    async with open_session(connections=2, timeout_s=60.0) as session:
        engine = LlamaCppEngine(JsonEndpoint(session, engine_url), "SmolLM2-135M-Instruct")
        first, failed, last = await engine.choose([MESSAGES, too_long, MESSAGES], CHOICES)
    assert isinstance(failed, UpstreamRefused)
    assert _distributions(first)[0] == pytest.approx(_distributions(last)[0], abs=1e-3)


async def test_several_levels_in_one_call(engine_url: str) -> None:
    """Three distributions over the levels; the first is what one question alone would get."""
    async with open_session(connections=2, timeout_s=60.0) as session:
        engine = LlamaCppEngine(JsonEndpoint(session, engine_url), "SmolLM2-135M-Instruct")
        (answer,) = await engine.choose([MESSAGES], CHOICES, positions=3)
        (alone,) = await engine.choose([MESSAGES], CHOICES)
    levels = _distributions(answer)
    assert [len(distribution) for distribution in levels] == [6, 6, 6]
    assert [sum(distribution) for distribution in levels] == pytest.approx([1.0] * 3)
    assert levels[0] == pytest.approx(_distributions(alone)[0], abs=1e-2)


async def test_written_text_is_bounded_and_repeatable(engine_url: str) -> None:
    async with open_session(connections=2, timeout_s=60.0) as session:
        engine = LlamaCppEngine(JsonEndpoint(session, engine_url), "SmolLM2-135M-Instruct")
        asked = [{"role": "user", "content": "Why do cities plant trees?"}]
        first, again = [(await engine.write([asked], Sampling(max_tokens=12)))[0] for _ in range(2)]
    assert isinstance(first, TextAnswer)
    assert isinstance(again, TextAnswer)
    assert first.text == again.text
    assert 0 < first.usage.completion_tokens <= 12


@pytest.mark.parametrize("mode", [Mode.REASONED, Mode.PLANNED])
async def test_modes_that_write_first(start_reward: StartReward, engine_url: str, mode: Mode) -> None:
    """A reward and, where asked for, its rationale; a planned group shares one plan."""
    service = start_reward(judge_url=engine_url, bootstrap_tasks=[TASK], rationale_words=12, plan_words=12)
    items = [{"id": str(n), "prompt": PROMPT, "completion": f"{ESSAY} {n}"} for n in range(2)]
    async with RewardClient(service.url) as client:
        response = await client.score(TASK, items, run="r", step=1, mode=mode, explain=True)
    assert all(result.reward is not None and 0.0 <= result.reward <= 1.0 for result in response.results)
    assert all(result.criteria[0].rationale for result in response.results)
    assert response.usage.judge_calls == (4 if mode is Mode.REASONED else 5)


def _distributions(answer: ChoiceAnswer | UpstreamError) -> tuple[Distribution, ...]:
    assert isinstance(answer, ChoiceAnswer)
    return answer.distributions


async def test_scores_through_the_service(start_reward: StartReward, engine_url: str) -> None:
    """Rewards in [0, 1]; the second completion of a prompt reuses the prefix of the first."""
    service = start_reward(judge_url=engine_url, bootstrap_tasks=[TASK], judge_in_flight=1)
    async with RewardClient(service.url) as client:
        items = [{"id": str(n), "prompt": PROMPT, "completion": f"{ESSAY} {n}"} for n in range(3)]
        response = await client.score(TASK, items, run="r", step=1)
    assert all(result.reward is not None and 0.0 <= result.reward <= 1.0 for result in response.results)
    assert all(0.0 <= (result.criteria[0].confidence or -1.0) <= 1.0 for result in response.results)
    assert response.usage.judge_calls == response.usage.completion_tokens == 3
    assert response.usage.cached_tokens > 200
