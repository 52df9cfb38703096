"""The judge on the real llama.cpp engine with a real small model."""

import pytest

from regrade import RewardClient
from services.kit.http import JsonEndpoint, UpstreamRefused, open_session
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
        answers = [await engine.choose(MESSAGES, CHOICES) for _ in range(5)]
        for answer in answers:
            assert len(answer.probabilities) == 6
            assert sum(answer.probabilities) == pytest.approx(1.0)
            assert min(answer.probabilities) > 0.0
            assert answer.probabilities == pytest.approx(answers[0].probabilities, abs=1e-3)
        plain = OpenAIEngine(JsonEndpoint(session, engine_url), engine.model)
        assert sum((await plain.choose(MESSAGES, CHOICES)).probabilities) == pytest.approx(1.0)
        with pytest.raises(UpstreamRefused):
            await engine.choose([{"role": "user", "content": "word " * 20_000}], CHOICES)


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
