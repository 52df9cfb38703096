"""An upstream that asks for a pause gets it; a burst of lost connections is one failure."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count

import pytest

from services.kit.http.client import JsonClient, call_deadline, open_session
from services.kit.http.errors import UpstreamBusy, UpstreamDisconnected, UpstreamUnavailable
from services.kit.http.refusals import retry_after_s
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain

BODY = {"messages": [{"role": "user", "content": "x"}]}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 0.5 "}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "999999999"}, 3_600.0),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_how_long_an_upstream_wants_to_be_left_alone(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_a_date_is_the_time_until_then() -> None:
    seconds = retry_after_s({"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)})
    assert seconds is not None
    assert 60.0 < seconds < 91.0


@pytest.mark.parametrize("status", [429, 503])
async def test_the_pause_is_kept_by_all_requests(fake_engine: FakeEngine, status: int) -> None:
    times: list[float] = []

    def limited(_: Messages) -> Reply:
        times.append(time.monotonic())
        return Reply(status=status, headers={"Retry-After": "0.4"}) if len(times) == 1 else certain(3)

    fake_engine.script = limited
    async with open_session(connections=4, timeout_s=60.0) as session:
        with pytest.raises(UpstreamUnavailable):
            await JsonClient(session, fake_engine.url, retries=0).post(CHAT, BODY)
        times.clear()
        json_client = JsonClient(session, fake_engine.url, retries=1, backoff_s=0.001)
        await json_client.post(CHAT, BODY)
        await asyncio.gather(*(json_client.post(CHAT, BODY) for _ in range(3)))
    assert len(times) == 5
    assert times[1] - times[0] >= 0.39, "no request during the pause"


async def test_a_pause_beyond_the_deadline_or_the_patience_is_reported_at_once(fake_engine: FakeEngine) -> None:
    async with open_session(connections=4, timeout_s=60.0) as session:
        for seconds, deadline in ((30, time.monotonic() + 5.0), (600, None)):
            fake_engine.forget()
            fake_engine.script = lambda _, s=seconds: Reply(  # type: ignore[misc]
                {"error": {"message": "quota of the minute"}}, status=429, headers={"Retry-After": str(s)}
            )
            json_client = JsonClient(session, fake_engine.url, retries=2, backoff_s=0.001)
            with call_deadline(deadline):
                for _ in range(3):
                    with pytest.raises(UpstreamBusy, match="quota of the minute") as raised:
                        await json_client.post(CHAT, BODY)
                    assert raised.value.retry_after_s is not None
                    assert seconds - 25 < raised.value.retry_after_s <= seconds
            assert len(fake_engine.calls) == 1


async def test_another_endpoint_serves_during_a_pause(fake_engine: FakeEngine) -> None:
    other = FakeEngine()
    fake_engine.script = lambda _: Reply(status=429, headers={"Retry-After": "600"})
    other.script = lambda _: certain(3)
    try:
        async with open_session(connections=4, timeout_s=60.0) as session:
            json_client = JsonClient(session, f"{fake_engine.url},{other.url}", retries=1, backoff_s=0.001)
            for _ in range(12):
                assert (await json_client.post(CHAT, BODY))["choices"]
    finally:
        other.close()
    assert len(fake_engine.calls) <= 1
    assert len(other.calls) == 12


class Resetting:
    """A server whose first connections serve one request each, and are reset by the second, all at once."""

    def __init__(self, connections: int) -> None:
        self.requests = 0
        self.resets = 0
        self.connections = connections
        self.always = False
        self._opened = 0
        self._reused = asyncio.Event()
        self._waiting = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._opened += 1
        is_stale = self._opened <= self.connections
        for number in count(1):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            self.requests += 1
            if self.always or (is_stale and number == 2):
                self._waiting += 1
                if self._waiting >= self.connections:
                    self._reused.set()
                if not self.always:
                    await self._reused.wait()
                self.resets += 1
                break
            body = b'{"choices": [1]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        writer.transport.abort()


async def test_resets_of_all_idle_connections_at_once_are_one_failure() -> None:
    resetting = Resetting(connections=16)
    server = await asyncio.start_server(resetting.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, open_session(connections=16, timeout_s=60.0) as session:
        json_client = JsonClient(session, url, retries=2, backoff_s=0.01)
        for _ in range(2):
            answers = await asyncio.gather(*(json_client.post(CHAT, BODY) for _ in range(16)))
            assert all(answer["choices"] for answer in answers)
    assert resetting.resets >= 16


async def test_resets_one_after_another_are_many_failures() -> None:
    resetting = Resetting(connections=1)
    resetting.always = True
    server = await asyncio.start_server(resetting.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, open_session(connections=1, timeout_s=60.0) as session:
        json_client = JsonClient(session, url, retries=0)
        for _ in range(5):
            with pytest.raises(UpstreamDisconnected):
                await json_client.post(CHAT, BODY)
        with pytest.raises(UpstreamUnavailable, match=r"are ejected .*the last: (ServerDisc|ClientOS)"):
            await json_client.post(CHAT, BODY)
    assert resetting.requests == 5
