"""The whole reward service on real vLLM: `make test-vllm`."""

import pytest

from regrade import RewardClient
from regrade.contracts import Mode
from services.kit.store.rubric_store import RubricStore
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, activate
from tests.support.essays import essay_groups, rubric
from tests.support.recording_proxy import RecordingProxy
from tests.support.vllm_server import Vllm

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


async def test_a_group_computes_its_prefixes_once(start_reward: StartReward, store: RubricStore, vllm_url: str) -> None:
    """By the engine's own counters: rubric, task and response of eight items with five criteria each.

    At most half a block is lost where a prefix ends within one, and the question is each conversation's own.
    """
    (group,) = essay_groups("a group of this test", 1)
    items = [{"id": str(n), "prompt": group.prompt, "completion": text} for n, text in enumerate(group.completions)]
    with RecordingProxy(vllm_url) as proxy, Vllm(vllm_url) as vllm:
        service = start_reward(judge_url=proxy.url, judge_timeout_s=240.0)
        await activate(store, rubric())
        before = vllm.counters()
        async with RewardClient(service.url, timeout_s=240.0) as client:
            response = await client.score(TASK, items, run="prefixes", step=1)
        spent = vllm.counters().since(before)
        requests = proxy.take()
        distinct = vllm.distinct_tokens(requests)
    assert all(result.reward is not None for result in response.results)
    assert len(requests) == 40
    assert distinct / spent.computed >= 0.8
    assert spent.computed < 0.2 * spent.prompt
