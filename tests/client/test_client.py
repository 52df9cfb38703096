"""The client: retries that repeat nothing, typed errors, the blocking face, and what importing it costs."""

import subprocess
import sys

import pytest

from regrade import (
    AccessError,
    BlockingRewardClient,
    RequestError,
    RewardClient,
    ServiceUnavailableError,
)
from services.kit.traces import TraceLog
from tests.conftest import StartReward
from tests.support.builders import TASK, checks_only, item
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text


async def test_retries_through_an_outage_with_the_same_ids(
    client: RewardClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    failures = 1

    def script(messages: Messages) -> Reply:
        nonlocal failures
        failures -= 1
        return Reply({}, 503) if failures >= 0 else by_text(messages)

    fake_engine.script = script
    response = await client.score(TASK, [item()], run="r", step=1)
    assert response.results[0].reward is not None
    assert len(fake_engine.calls) == 2
    assert [trace.item_id for trace in await trace_log.latest(TASK, 10)] == [response.results[0].id]


async def test_gives_up_when_its_patience_is_over(reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.stop()
    async with RewardClient(reward_url, patience_s=0.5) as client:
        with pytest.raises(ServiceUnavailableError, match="judge_unavailable"):
            await client.score(TASK, [item()])
    async with RewardClient("http://127.0.0.1:9", patience_s=0.5) as client:
        with pytest.raises(ServiceUnavailableError, match="unreachable"):
            await client.rubric(TASK)
        with pytest.raises(ServiceUnavailableError, match="unreachable"):
            await client.readiness()


async def test_errors_are_typed(start_reward: StartReward) -> None:
    url = start_reward(bootstrap_tasks=[TASK], api_keys=["k"], operator_keys=["o"]).url
    async with RewardClient(url, key="wrong") as client:
        with pytest.raises(AccessError) as refused:
            await client.rubric(TASK)
        assert refused.value.code == "unauthorized"
    async with RewardClient(url, key="k") as client:
        with pytest.raises(RequestError, match="unknown_task"):
            await client.score("no_such_task", [item()])
        with pytest.raises(AccessError, match="operator"):
            await client.put_rubric(TASK, checks_only(), by="me", reason="why")
    async with RewardClient(url, key="o") as client:
        assert (await client.put_rubric(TASK, checks_only(), by="me", reason="why")).version == 2


def test_the_blocking_face(reward_url: str) -> None:
    with BlockingRewardClient(reward_url) as client:
        assert client.readiness() == {"redis": True, "judge": True}
        assert client.rubric(TASK).version == 1
        assert client.put_rubric(TASK, checks_only(), by="me", reason="why").version == 2
        assert client.score(TASK, [item()]).results[0].rubric.version == 2
        assert client.call("GET", "/healthz", dict[str, str]) == {"status": "ok"}
    client.close()


def test_import_is_light() -> None:
    code = (
        "import regrade, regrade.adapters.trl, sys;"
        "heavy = {'torch', 'fastapi', 'redis', 'aiohttp', 'transformers', 'trl', 'typer'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
