"""Calls to an engine: retries in one layer, with a budget; every failure a typed one."""

import pytest
from pydantic import SecretStr

from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import (
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain

BODY = {"messages": [{"role": "user", "content": "x"}]}
CHAT = "/v1/chat/completions"


async def test_a_failed_call_is_tried_again_within_its_budget(fake_engine: FakeEngine) -> None:
    def busy_twice(_: Messages) -> Reply:
        return Reply(status=503) if len(fake_engine.calls) <= 2 else certain(3)

    fake_engine.script = busy_twice
    async with open_session(connections=1, timeout_s=60.0) as session:
        answer = await JsonClient(session, fake_engine.url, retries=2, backoff_s=0.001).post(CHAT, BODY)
        assert answer["choices"]
        assert len(fake_engine.calls) == 3
        fake_engine.forget()
        with pytest.raises(UpstreamUnavailable, match="HTTP 503"):
            await JsonClient(session, fake_engine.url, retries=1, backoff_s=0.001).post(CHAT, BODY)
        assert len(fake_engine.calls) == 2


@pytest.mark.parametrize("status", [400, 403, 413, 422, 451])
async def test_a_refusal_is_not_tried_again(fake_engine: FakeEngine, status: int) -> None:
    fake_engine.script = lambda _: Reply({"why": "too long"}, status=status)
    async with open_session(connections=1, timeout_s=60.0) as session:
        with pytest.raises(UpstreamRefused, match=f"HTTP {status} .*too long") as refused:
            await JsonClient(session, fake_engine.url, retries=3, backoff_s=0.001).post(CHAT, BODY)
    assert not refused.value.retryable
    assert len(fake_engine.calls) == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (307, "redirects"),
        (401, "refuses the key"),
        (402, "no credit"),
        (404, "no such route or model"),
        (405, "does not have this route"),
        (410, "no longer serves"),
        (418, "refuses every request"),
    ],
)
async def test_a_refusal_of_everything_is_an_outage_with_its_text(
    fake_engine: FakeEngine, status: int, reason: str
) -> None:
    fake_engine.script = lambda _: Reply({"error": {"message": "bad key engine-key-1234, or no credit"}}, status=status)
    async with open_session(connections=1, timeout_s=60.0) as session:
        json_client = JsonClient(
            session, fake_engine.url, key=SecretStr("engine-key-1234"), retries=3, backoff_s=0.001, name="the judge"
        )
        with pytest.raises(
            UpstreamDenied, match=f"the judge .*{reason}.*HTTP {status} at {fake_engine.url}{CHAT}"
        ) as denied:
            await json_client.post(CHAT, BODY)
    assert denied.value.retryable
    assert "or no credit" in str(denied.value)
    assert "engine-key-1234" not in str(denied.value)
    assert len(fake_engine.calls) == 1


@pytest.mark.parametrize(
    ("error", "kind", "calls"),
    [
        ({"code": 429, "message": "slow down"}, UpstreamBusy, 3),
        ({"code": "429", "message": "slow down"}, UpstreamBusy, 3),
        ({"type": "rate_limit_exceeded", "message": "slow down"}, UpstreamBusy, 3),
        ({"code": None, "status": "RESOURCE_EXHAUSTED", "message": "slow down"}, UpstreamBusy, 3),
        ({"code": 502, "message": "slow down"}, UpstreamUnavailable, 3),
        ({"code": "context_length_exceeded", "message": "slow down"}, UpstreamRefused, 1),
        ({"code": 401, "message": "slow down"}, UpstreamDenied, 1),
        ({"code": 40_100, "message": "slow down"}, UpstreamMalformed, 1),
        ({"code": True, "message": "slow down"}, UpstreamMalformed, 1),
        ("slow down", UpstreamMalformed, 1),
    ],
)
async def test_an_error_inside_a_200_counts_by_its_code(
    fake_engine: FakeEngine, error: object, kind: type[UpstreamError], calls: int
) -> None:
    bodies = [{"error": error}, {"choices": [], "error": error}]
    if isinstance(error, dict):
        bodies.append({"object": "error", **error})
    async with open_session(connections=1, timeout_s=60.0) as session:
        for body in bodies:
            fake_engine.forget()
            fake_engine.script = lambda _, body=body: Reply(body)  # type: ignore[misc]
            with pytest.raises(kind, match="slow down") as raised:
                await JsonClient(session, fake_engine.url, retries=2, backoff_s=0.001).post(CHAT, BODY)
            assert type(raised.value) is kind
            assert len(fake_engine.calls) == calls


async def test_an_error_field_that_is_empty_is_none(fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda _: Reply({"choices": [{"x": 'says "error"'}], "error": None})
    async with open_session(connections=1, timeout_s=60.0) as session:
        assert (await JsonClient(session, fake_engine.url).post(CHAT, BODY))["choices"]


async def test_no_answer_in_time_is_unavailable(fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda _: Reply(hang=True)
    async with open_session(connections=1, timeout_s=0.2) as session:
        with pytest.raises(UpstreamUnavailable, match="Timeout"):
            await JsonClient(session, fake_engine.url, retries=0).post(CHAT, BODY)


async def test_nobody_there_is_unavailable(fake_engine: FakeEngine) -> None:
    fake_engine.stop()
    async with open_session(connections=1, timeout_s=60.0) as session:
        with pytest.raises(UpstreamUnavailable):
            await JsonClient(session, fake_engine.url, retries=1, backoff_s=0.001).get("/v1/models")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff\xfe", b"[" * 200_000, b"[" + b"1," * 8_100_000 + b"1]"], ids=lambda b: str(len(b))
)
async def test_what_is_no_json_is_malformed(fake_engine: FakeEngine, body: bytes) -> None:
    fake_engine.script = lambda _: Reply(body)
    async with open_session(connections=1, timeout_s=60.0) as session:
        with pytest.raises(UpstreamMalformed):
            await JsonClient(session, fake_engine.url, retries=0).post(CHAT, BODY)


async def test_a_key_is_sent(fake_engine: FakeEngine) -> None:
    async with open_session(connections=1, timeout_s=60.0) as session:
        await JsonClient(session, fake_engine.url, key=SecretStr("engine-key")).post(CHAT, BODY)
        await JsonClient(session, fake_engine.url, key=SecretStr("")).post(CHAT, BODY)
    assert [headers.get("Authorization") for headers in fake_engine.headers] == ["Bearer engine-key", None]
