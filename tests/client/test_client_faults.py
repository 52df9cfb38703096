"""The client against a scripted service: what it repeats, how long it waits, what it raises."""

import pytest
from pydantic import ValidationError

from regrade import (
    AccessError,
    BlockingRewardClient,
    PinConflictError,
    RequestError,
    RewardClient,
    ScoreItem,
    ServiceUnavailableError,
)
from regrade.contracts import ScoreResponse, Usage
from tests.support.builders import TASK, check, checks_only, item, result, rubric
from tests.support.fake_engine import FakeEngine
from tests.support.scripted import Answer, scripted_service

SCORED = ScoreResponse(results=(result("0" * 64),), usage=Usage(), degraded=False).model_dump(mode="json")
BOTH_SCORED = SCORED | {"results": SCORED["results"] * 2}
BUSY = Answer(503, {"error": "judge_unavailable", "detail": "the judge is away"}, {"Retry-After": "0"})


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_i5_a_retry_repeats_the_same_item_ids(status: int) -> None:
    busy = BUSY._replace(status=status)
    with scripted_service([busy, busy, Answer(200, BOTH_SCORED)]) as service:
        async with RewardClient(service.url) as client:
            response = await client.score(TASK, [item(0), item(1, id="mine")], run="r", step=1)
    assert response.results[0].reward == 0.5
    ids = [[sent["id"] for sent in request.body["items"]] for request in service.requests]
    assert len(ids) == 3
    assert ids[0] == ids[1] == ids[2]
    assert ids[0][1] == "mine"


async def test_two_calls_are_two_items() -> None:
    with scripted_service([Answer(200, SCORED)]) as service:
        async with RewardClient(service.url) as client:
            for _ in range(2):
                await client.score(TASK, [item(0)])
    first, second = (request.body["items"][0]["id"] for request in service.requests)
    assert first != second


async def test_it_waits_as_long_as_it_is_asked_to_or_gives_up_at_once() -> None:
    with scripted_service([BUSY._replace(headers={"Retry-After": "20"})]) as service:
        async with RewardClient(service.url, patience_s=10.0) as client:
            with pytest.raises(ServiceUnavailableError):
                await client.score(TASK, [item()])
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AccessError), (403, AccessError), (404, RequestError), (409, PinConflictError)]
)
async def test_what_a_retry_cannot_fix_is_raised_at_once(status: int, kind: type[RequestError]) -> None:
    with scripted_service([Answer(status, {"error": "some_code", "detail": "why"})]) as service:
        async with RewardClient(service.url) as client:
            with pytest.raises(kind, match="some_code: why") as refused:
                await client.score(TASK, [item()])
    assert type(refused.value) is kind
    assert (refused.value.code, refused.value.detail) == ("some_code", "why")
    assert len(service.requests) == 1


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"[]", b'{"detail": 1}'])
async def test_an_error_of_a_proxy_is_raised_with_its_text(body: bytes) -> None:
    with scripted_service([Answer(418, body)]) as service:
        async with RewardClient(service.url) as client:
            with pytest.raises(RequestError) as refused:
                await client.score(TASK, [item()])
    assert (refused.value.code, refused.value.detail) == ("http_418", body.decode())


async def test_a_bad_item_is_refused_before_it_is_sent(reward_url: str) -> None:
    async with RewardClient(reward_url) as client:
        with pytest.raises(ValidationError):
            await client.score(TASK, [{"prompt": "p", "completion": "c", "colour": "red"}])
        with pytest.raises(ValidationError):
            await client.score(TASK, [])


async def test_url_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_service([Answer(200, SCORED)]) as service:
        monkeypatch.setenv("REGRADE_URL", service.url)
        monkeypatch.setenv("REGRADE_KEY", "secret")
        async with RewardClient() as client, RewardClient(key="other") as other, RewardClient(key="") as nobody:
            for one in (client, other, nobody):
                await one.score(TASK, [item()])
    assert [request.key for request in service.requests] == ["Bearer secret", "Bearer other", None]


async def test_rubrics_by_every_name(client: RewardClient) -> None:
    first = await client.rubric(TASK)
    own = checks_only(9)
    answer = await client.put_rubric(TASK, own, by="me", reason="mine is better", expected=first.digest)
    assert (answer.digest, answer.version) == (own.digest, 2)
    assert (await client.rubric(TASK)).digest == own.digest
    assert (await client.rubric(TASK, version=1)) == (await client.rubric(TASK, digest=first.digest)) == first
    with pytest.raises(PinConflictError):
        await client.put_rubric(TASK, checks_only(10), by="me", reason="late", expected=first.digest)
    with pytest.raises(RequestError):
        await client.rubric(TASK, lineage="nowhere")


async def test_readiness_names_each_dependency(client: RewardClient, fake_engine: FakeEngine) -> None:
    assert await client.readiness() == {"redis": True, "judge": True}
    fake_engine.stop()
    parts = await client.readiness()
    while parts["judge"]:  # the service examines its engine once a second
        parts = await client.readiness()
    assert parts == {"redis": True, "judge": False}


def test_the_blocking_client_has_every_method_of_the_other() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")} - {"close", "aclose"}

    assert methods(BlockingRewardClient) == methods(RewardClient)


async def test_a_whole_candidate_can_be_sent(client: RewardClient) -> None:
    candidate = rubric(check("shape", {"check": "json_schema", "schema": {"type": "array"}}))
    items = [ScoreItem(prompt="p", completion=text) for text in ("[1]", "{1}")]
    response = await client.shadow(TASK, candidate, items)
    assert response.results[0].rubric.digest == candidate.digest
    assert [scored.reward for scored in response.results] == [1.0, 0.0]
    await client.put_rubric(TASK, candidate, by="me", reason="shape")
    assert await client.rubric(TASK, digest=candidate.digest) == (await client.rubric(TASK))
