"""What the client makes of a batch: requests within the limits of number and bytes, and an outcome for each item."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from regrade import BlockingRewardClient, RequestError, RewardClient, ScoreItem
from regrade.adapters.core import Scorer, close_client_threads
from regrade.contracts.score import MAX_BODY_BYTES
from regrade.transport import Transport
from services.kit.store.trace_log import TraceLog
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, rubric
from tests.support.scripted import Answer, scripted_service

TOO_LONG = 60_001
"""Characters that a guard stops, so that no judge is asked."""
SMALL = 20_000
"""A service's own limit of a body."""


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The bodies of the client's requests to `/score`, each with its size in bytes."""
    sent: list[dict[str, Any]] = []
    original = Transport.send

    async def recorded(self: Transport, method: str, path: str, body: str | None = None, **options: Any) -> bytes:
        if path == "/score" and body is not None:
            sent.append(json.loads(body) | {"bytes": len(body.encode())})
        return await original(self, method, path, body, **options)

    monkeypatch.setattr(Transport, "send", recorded)
    return sent


def _items(completions: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"id": str(n), "prompt": PROMPT, "completion": text} for n, text in enumerate(completions)]


LETTERS = {"ASCII": "x", "Chinese": "\u6811", "emoji": "\U0001f333", "control": "\x01", "quote": '"', "backslash": "\\"}


@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
async def test_a_batch_larger_than_a_body_goes_in_several(
    client: RewardClient, bodies: list[dict[str, Any]], letter: str
) -> None:
    """Counted as the service counts: in bytes of the encoded body."""
    count = 1 + 2 * MAX_BODY_BYTES // (TOO_LONG * len(json.dumps(letter, ensure_ascii=False).encode()) - 2 * TOO_LONG)
    response = await client.score(TASK, _items([letter * TOO_LONG] * count), run="r", step=1)
    assert [result.flags for result in response.results] == [("too_long",)] * count
    assert [result.id for result in response.results] == [str(n) for n in range(count)]
    assert {(body["run"], body["step"]) for body in bodies} == {("r", 1)}
    assert all(body["bytes"] <= MAX_BODY_BYTES for body in bodies)
    assert 2 <= len(bodies) <= 4


async def test_requests_are_as_few_as_the_limit_allows(client: RewardClient, bodies: list[dict[str, Any]]) -> None:
    texts = ["x" * TOO_LONG] * 100 + [""] * 1_000
    await client.score(TASK, _items(texts))
    assert sorted(len(body["items"]) for body in bodies) == [76, 512, 512]


async def test_a_batch_goes_in_halves_to_a_service_with_a_smaller_limit(
    start_reward: StartReward, bodies: list[dict[str, Any]], trace_log: TraceLog
) -> None:
    url = start_reward(bootstrap_tasks=[TASK], max_body_bytes=SMALL).url
    texts = [f"{ESSAY} {'More of it. ' * 300} {n}" for n in range(12)]
    async with RewardClient(url) as client:
        response = await client.score(TASK, _items([*texts, "x" * (2 * SMALL), ESSAY]), run="r", step=1)
        first = len(bodies)
        await client.score(TASK, _items(texts), run="r", step=2)
    *scored, large, last = response.results
    assert [result.id for result in response.results] == [str(n) for n in range(14)]
    assert all(result.reward is not None for result in (*scored, last))
    assert large.error is not None
    assert (large.error.code, large.error.retryable) == ("invalid_item", False)
    assert "this item alone" in large.error.message
    assert f"exceeds {SMALL} bytes" in large.error.message
    assert len({result.rubric.digest for result in (*scored, last)}) == 1
    assert all(body["bytes"] <= SMALL for body in bodies[first:]), "the limit is remembered"
    traces = (await trace_log.recent(TASK, 100)).traces
    assert len({trace.trace_id for trace in traces}) == len(traces) == 13 + 12


@pytest.mark.parametrize("body", [b"<html>Request Entity Too Large</html>", {"error": "too_large", "detail": "x"}])
async def test_any_413_halves_down_to_single_items(body: Any) -> None:
    """Also one of a proxy before the service."""
    with scripted_service([Answer(413, body)]) as service:
        async with RewardClient(service.url) as client:
            response = await client.score(TASK, _items("abcd"))
            with pytest.raises(RequestError):
                await client.put_rubric(TASK, rubric(), by="me", reason="why")
    assert [result.error and result.error.code for result in response.results] == ["invalid_item"] * 4
    assert [result.id for result in response.results] == list("0123")
    sizes = sorted(len(request.body["items"]) for request in service.requests if request.path == "/score")
    assert sizes == [1, 1, 1, 1, 2, 2, 4]


def test_single_samples_that_are_too_many_bytes_together(reward_url: str, bodies: list[dict[str, Any]]) -> None:
    """Micro-batches of the adapters: 64 by number, fewer by bytes."""
    scorer = Scorer(task=TASK, url=reward_url, batch=64, wait_s=0.5)
    items = [{"prompt": PROMPT, "completion": "\U0001f333" * TOO_LONG, "id": str(n)} for n in range(64)]
    try:
        results = [pending.result() for pending in [scorer.score_one(item) for item in items]]
    finally:
        close_client_threads()
    assert [result.id for result in results] == [str(n) for n in range(64)]
    assert {result.flags for result in results} == {("too_long",)}
    assert all(body["bytes"] <= MAX_BODY_BYTES for body in bodies)


BAD: list[Any] = [None, 5, b"bytes", [], [{"role": "assistant", "content": "x"}] * 300, "half \ud83d", {"a": 1}]


@pytest.mark.parametrize("bad", BAD, ids=lambda value: f"{type(value).__name__}")
def test_a_bad_item_does_not_cost_the_others_their_rewards(reward_url: str, bad: Any) -> None:
    unnamed: list[Any] = [ScoreItem(prompt=PROMPT, completion=ESSAY), {"prompt": PROMPT, "completion": bad}]
    with BlockingRewardClient(reward_url) as client:
        good, refused, last, other = client.score(TASK, _items([ESSAY, bad]) + unnamed, run="r", step=1).results
    assert good.reward == last.reward is not None
    for result in (refused, other):
        assert result.error is not None
        assert (result.reward, result.error.code) == (None, "invalid_item")
        assert "completion: " in result.error.message
    assert (good.id, refused.id) == ("0", "1")
    assert len({good.id, refused.id, last.id, other.id}) == 4


async def test_bad_items_alone_are_an_outcome_each_without_a_request(
    client: RewardClient, bodies: list[dict[str, Any]]
) -> None:
    response = await client.score(TASK, _items(BAD))
    assert [result.error and result.error.code for result in response.results] == ["invalid_item"] * len(BAD)
    assert bodies == []
    with pytest.raises(ValueError, match="step"):
        await client.score(TASK, _items([None]), step=1)


async def test_a_step_keeps_its_rubric_beside_bad_items(client: RewardClient, bodies: list[dict[str, Any]]) -> None:
    for _ in range(2):
        await client.score(TASK, _items([ESSAY, None]), run="r", step=1)
    first, second = bodies
    assert first["rubric"] is None
    assert len(second["rubric"]) == 64


@pytest.mark.parametrize("results", [0, 1, 3])
async def test_a_response_with_another_number_of_results_is_refused(results: int) -> None:
    body = {"results": [], "usage": {}, "degraded": False}
    one = {
        "id": "a", "reward": 0.5, "raw": 0.5, "rubric": {"lineage": "main", "scope": None, "version": 1, "digest": "0"},
        "criteria": [], "flags": [], "error": None, "trace_id": "", "cached": False,
    }  # fmt: skip
    with scripted_service([Answer(200, body | {"results": [one] * results})]) as service:
        async with RewardClient(service.url) as client:
            with pytest.raises(RequestError, match="unexpected_response"):
                await client.score(TASK, _items("ab"))


async def test_concurrent_calls_share_the_limit_that_one_has_met(
    start_reward: StartReward, bodies: list[dict[str, Any]]
) -> None:
    url = start_reward(bootstrap_tasks=[TASK], max_body_bytes=SMALL).url
    async with RewardClient(url) as client:
        calls = [client.score(TASK, _items([f"{'x ' * 3_000}{n}{k}" for n in range(4)])) for k in range(3)]
        responses = await asyncio.gather(*calls)
    assert all(result.reward is not None for response in responses for result in response.results)
