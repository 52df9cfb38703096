"""The client: retries without repeated work, typed errors, the blocking client, and a light import."""

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
from services.kit.store.trace_log import TraceLog
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
    assert [trace.item_id for trace in (await trace_log.recent(TASK, 10)).traces] == [response.results[0].id]


async def test_items_the_judge_was_away_for_are_asked_for_again(
    client: RewardClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    """Half a batch finds the judge away: the caller gets it whole, each item judged and traced once, in order."""
    away = {"This is version 1 of it.", "This is version 3 of it."}

    def script(messages: Messages) -> Reply:
        unavailable = next((text for text in away if text in messages[1]["content"]), None)
        if unavailable is None:
            return by_text(messages)
        away.discard(unavailable)
        return Reply({}, 503)

    fake_engine.script = script
    response = await client.score(TASK, [item(n, id=str(n)) for n in range(4)], run="r", step=1)
    assert [result.id for result in response.results] == ["0", "1", "2", "3"]
    assert all(result.reward is not None for result in response.results)
    assert response.usage.judge_calls == 4
    assert len(fake_engine.calls) == 6
    assert sorted(trace.item_id for trace in (await trace_log.recent(TASK, 10)).traces) == ["0", "1", "2", "3"]


async def test_what_the_judge_did_serve_is_kept_when_patience_is_over(reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda m: Reply({}, 503) if "version 1 of it" in m[1]["content"] else by_text(m)
    async with RewardClient(reward_url, patience_s=0.5) as client:
        first, second = (await client.score(TASK, [item(0), item(1)], run="r", step=1)).results
    assert first.reward is not None
    assert second.reward is None
    assert second.error is not None
    assert second.error.code == "judge_unavailable"


async def test_what_is_judged_in_time_is_not_lost_to_what_is_not(reward_url: str, fake_engine: FakeEngine) -> None:
    """The service answers before the client's own time is over: one slow item costs its own reward alone."""
    fake_engine.script = lambda m: Reply(hang=True) if "version 1 of it" in m[1]["content"] else by_text(m)
    async with RewardClient(reward_url, timeout_s=2.0, patience_s=0.0) as client:
        first, second = (await client.score(TASK, [item(0), item(1)], run="r", step=1)).results
    assert first.reward is not None
    assert second.error is not None
    assert "deadline" in second.error.message


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
    url = start_reward(bootstrap_tasks=[TASK], api_keys=["key-of-a-caller-"], operator_keys=["key-of-an-operator"]).url
    async with RewardClient(url, key="wrong") as client:
        with pytest.raises(AccessError) as refused:
            await client.rubric(TASK)
        assert refused.value.code == "unauthorized"
    async with RewardClient(url, key="key-of-a-caller-") as client:
        with pytest.raises(RequestError, match="unknown_task"):
            await client.score("no_such_task", [item()])
        with pytest.raises(AccessError, match="operator"):
            await client.put_rubric(TASK, checks_only(), by="me", reason="why")
    async with RewardClient(url, key="key-of-an-operator") as client:
        assert (await client.put_rubric(TASK, checks_only(), by="me", reason="why")).version == 2


def test_the_blocking_client(reward_url: str) -> None:
    with BlockingRewardClient(reward_url) as client:
        assert client.readiness() == {"redis": True, "judge": True}
        assert client.rubric(TASK).version == 1
        assert client.put_rubric(TASK, checks_only(), by="me", reason="why").version == 2
        assert client.score(TASK, [item()]).results[0].rubric.version == 2
        assert client.call("GET", "/healthz", dict[str, str]) == {"status": "ok"}
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.readiness()


@pytest.mark.slow
def test_import_is_light() -> None:
    code = (
        "import regrade, regrade.adapters.trl, sys;"
        "heavy = {'torch', 'fastapi', 'redis', 'aiohttp', 'transformers', 'trl', 'typer'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
