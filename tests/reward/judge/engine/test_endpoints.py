"""A judge behind several endpoints: one model, no lost item when one dies, no credentials told."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from pydantic import ValidationError

from regrade import RewardClient
from regrade.contracts import ErrorCode
from services.kit.http import load_balancing as replicas
from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamMalformed, UpstreamRefused, UpstreamUnavailable
from services.meta_reward.settings import MetaRewardSettings
from services.reward.judge.engine.base import EngineAnswer
from services.reward.judge.engine.discovery import open_engine
from services.reward.settings import RewardSettings
from tests.conftest import StartReward
from tests.support.builders import TASK, item
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text

QUESTION = [{"role": "user", "content": "How good?"}]
CHOICES = tuple("012345")


@pytest.fixture
def second_engine() -> Iterator[FakeEngine]:
    """Another engine of the same model."""
    with closing(FakeEngine()) as engine:
        yield engine


async def test_endpoints_of_different_models_are_refused(fake_engine: FakeEngine, second_engine: FakeEngine) -> None:
    second_engine.served = "a-smaller-judge"
    async with open_session(connections=2, timeout_s=60.0) as session:
        json_client = JsonClient(session, f"{fake_engine.url},{second_engine.url}")
        for model in ("", "fake-judge"):
            with pytest.raises(UpstreamRefused, match=r"one model: one has 'fake-judge', another a-smaller-judge"):
                await open_engine(json_client, dialect="auto", model=model)
        with pytest.raises(UpstreamRefused, match=r"one model: one has 'a-smaller-judge', another fake-judge"):
            await open_engine(json_client, dialect="auto", model="a-smaller-judge")
        second_engine.served = fake_engine.served
        assert (await open_engine(json_client, dialect="auto", model="")).model == "fake-judge"


async def test_a_server_that_lists_no_models_is_asked_for_the_one_named(fake_engine: FakeEngine) -> None:
    fake_engine.served = ""
    async with open_session(connections=2, timeout_s=60.0) as session:
        json_client = JsonClient(session, fake_engine.url)
        with pytest.raises(UpstreamMalformed, match="REGRADE_REWARD_JUDGE_MODEL"):
            await open_engine(json_client, dialect="auto", model="")
        assert (await open_engine(json_client, dialect="auto", model="mine")).model == "mine"


async def test_an_endpoint_that_comes_back_with_another_model_stays_out(
    fake_engine: FakeEngine, second_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_FIRST_EJECTION_S", 0.0)
    second_engine.stop()
    async with open_session(connections=2, timeout_s=60.0) as session:
        json_client = JsonClient(session, f"{fake_engine.url},{second_engine.url}", backoff_s=0.001)
        engine = await open_engine(json_client, dialect="auto", model="")
        second_engine.served = "another"
        second_engine.start()
        for _ in range(10):
            (answer,) = await engine.choose([QUESTION], CHOICES)
            assert isinstance(answer, EngineAnswer)
        assert second_engine.calls == []
        assert second_engine.probes > 0
        second_engine.served = fake_engine.served
        for _ in range(20):
            await engine.choose([QUESTION], CHOICES)
        assert second_engine.calls


async def test_no_item_is_lost_when_one_of_two_engines_dies(
    start_reward: StartReward, fake_engine: FakeEngine, second_engine: FakeEngine
) -> None:
    urls = f"{fake_engine.url},{second_engine.url}"
    service = start_reward(bootstrap_tasks=[TASK], judge_url=urls, judge_retries=1, judge_in_flight=4)
    dead: list[Messages] = []

    def dies_in_its_third_call(messages: Messages) -> Reply:
        dead.append(messages)
        return by_text(messages) if len(dead) <= 2 else Reply(hang=True)

    fake_engine.script = dies_in_its_third_call
    async with RewardClient(service.url, patience_s=0.0) as client, httpx.AsyncClient(base_url=service.url) as http:
        batch = asyncio.create_task(client.score(TASK, [item(n, id=str(n)) for n in range(24)], run="r", step=1))
        await asyncio.to_thread(fake_engine.wait_for_calls, 4)
        await asyncio.to_thread(fake_engine.stop)
        response = await batch
        assert all(result.error is None for result in response.results)
        again = await client.score(TASK, [item(100 + n, id=f"b{n}") for n in range(8)], run="r", step=1)
        assert all(result.error is None for result in again.results)
        assert (await http.get("/readyz")).json() == {"redis": True, "judge": True}
        metrics = (await http.get("/metrics")).text
    assert 'regrade_judge_retries_total{outcome="tried"}' in metrics
    assert "regrade_judge_ejected_endpoints 1.0" in metrics


async def test_with_every_engine_out_the_door_says_so_at_once(
    start_reward: StartReward, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_FIRST_EJECTION_S", 60.0)
    service = start_reward(bootstrap_tasks=[TASK], judge_timeout_s=2.0)
    async with httpx.AsyncClient(base_url=service.url) as http:
        assert (await http.post("/score", json={"task": TASK, "items": [item()]})).status_code == 200
        fake_engine.script = lambda _: Reply(hang=True)
        fake_engine.forget()
        body = {"task": TASK, "items": [item(n) for n in range(10, 20)]}
        assert (await http.post("/score", json=body)).status_code == 503
        assert len(fake_engine.calls) == 10
        answer = await http.post("/score", json=body)
        assert (answer.status_code, answer.json()["error"]) == (503, ErrorCode.JUDGE_UNAVAILABLE)
        assert int(answer.headers["Retry-After"]) > 0
        assert len(fake_engine.calls) == 10
        assert "regrade_judge_ejected_endpoints 1.0" in (await http.get("/metrics")).text


async def test_credentials_of_an_engine_are_told_nowhere(
    start_reward: StartReward, fake_engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = fake_engine.url.replace("://", "://me:hush-1@")
    service = start_reward(bootstrap_tasks=[TASK], judge_url=url, judge_key="hush-2", judge_retries=1)
    outputs: list[str] = []
    async with httpx.AsyncClient(base_url=service.url) as http:
        for reply in (Reply({}, status=401), Reply(status=503), Reply(b"<html>")):
            fake_engine.script = lambda _, reply=reply: reply  # type: ignore[misc]
            outputs.append((await http.post("/score", json={"task": TASK, "items": [item(len(outputs))]})).text)
        fake_engine.stop()
        outputs += [(await http.get(path)).text for path in ("/readyz", "/metrics")]
    assert fake_engine.headers[0]["Authorization"].startswith("Basic ")
    outputs += [f"{record.getMessage()}{record.__dict__}" for record in caplog.records]
    outputs.append(repr(RewardSettings(judge_url=url, judge_key="hush-2")))
    for settings, field in ((RewardSettings, "judge_url"), (MetaRewardSettings, "meta_judge_url")):
        with pytest.raises(ValidationError) as refused:
            settings.model_validate({field: f"{url}?key=hush-3"})
        outputs.append(str(refused.value))
    assert "401" in outputs[0]
    assert "judge call failed" in "".join(outputs)
    assert "hush" not in "".join(outputs)


async def test_an_engine_that_is_away_is_unavailable(fake_engine: FakeEngine) -> None:
    fake_engine.stop()
    async with open_session(connections=1, timeout_s=60.0) as session:
        with pytest.raises(UpstreamUnavailable):
            await open_engine(JsonClient(session, fake_engine.url, retries=0), dialect="openai", model="m")
