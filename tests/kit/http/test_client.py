"""Calls to an engine: retries in one layer, with a budget; every failure a typed one."""

import pytest
from pydantic import SecretStr

from services.kit.http.client import JsonClient, UpstreamMalformed, UpstreamRefused, UpstreamUnavailable, open_session
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


@pytest.mark.parametrize("status", [300, 400, 401, 404, 413, 422])
async def test_a_refusal_is_not_tried_again(fake_engine: FakeEngine, status: int) -> None:
    fake_engine.script = lambda _: Reply({"why": "too long"}, status=status)
    async with open_session(connections=1, timeout_s=60.0) as session:
        with pytest.raises(UpstreamRefused, match=f"HTTP {status} .*too long") as refused:
            await JsonClient(session, fake_engine.url, retries=3, backoff_s=0.001).post(CHAT, BODY)
    assert not refused.value.retryable
    assert len(fake_engine.calls) == 1


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
