"""The whole reward service on real vLLM: `make test-vllm`."""

import pytest

from regrade import RewardClient
from regrade.contracts import Mode
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("mode", list(Mode))
async def test_scores_through_the_service(start_reward: StartReward, vllm_url: str, mode: Mode) -> None:
    """Rewards in [0, 1] in each mode, and the same ones when the items are judged afresh."""
    service = start_reward(judge_url=vllm_url, bootstrap_tasks=[TASK], rationale_words=12, plan_words=12)
    items = [{"id": str(n), "prompt": PROMPT, "completion": f"{ESSAY} {n}"} for n in range(4)]
    async with RewardClient(service.url) as client:
        response = await client.score(TASK, items, run="r", step=1, mode=mode)
        again = await client.score(TASK, items, run="r", step=2, mode=mode, fresh=True)
    assert all(result.reward is not None and 0.0 <= result.reward <= 1.0 for result in response.results)
    for first, second in zip(response.results, again.results, strict=True):
        assert first.reward == pytest.approx(second.reward, abs=0.05)
    assert response.usage.judge_calls >= len(items)
    assert response.usage.prompt_tokens > 200 * len(items)
