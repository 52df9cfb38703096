"""The whole reward service with its judge inside: `make test-vllm`."""

from multiprocessing import active_children

import httpx
import pytest

from regrade import RewardClient
from regrade.contracts import Mode
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK
from tests.support.servers import VLLM_MODEL, VLLM_ON_CPU
from tests.support.waiting import wait_until

pytestmark = pytest.mark.inprocess


async def test_scores_with_no_engine_beside_it(start_reward: StartReward) -> None:
    """Ready once the model is loaded; rewards in each mode; siblings share their prefix; the judge ends with it."""
    running = len(active_children())
    service = start_reward(
        judge_dialect="vllm-inprocess",
        judge_model=str(VLLM_MODEL),
        judge_context=4_096,
        judge_engine_args=VLLM_ON_CPU,
        judge_url="http://127.0.0.1:1",
        bootstrap_tasks=[TASK],
        rationale_words=12,
        plan_words=12,
    )
    wait_until(lambda: httpx.get(f"{service.url}/readyz", timeout=120.0).status_code == 200, "ready")
    assert len(active_children()) > running
    items = [{"id": str(n), "prompt": PROMPT, "completion": f"{ESSAY} {n}"} for n in range(4)]
    async with RewardClient(service.url) as client:
        for step, mode in enumerate(Mode):
            response = await client.score(TASK, items, run="r", step=step, mode=mode)
            assert all(result.reward is not None and 0.0 <= result.reward <= 1.0 for result in response.results)
            assert response.usage.judge_calls >= len(items)
            assert 0 < response.usage.cached_tokens < response.usage.prompt_tokens
    service.stop()
    wait_until(lambda: len(active_children()) == running, "vLLM's process to end")
