"""What strangers may cost a service: heads, bodies, slow senders, connections; on raw sockets, before any key."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import StartReward
from tests.support import story
from tests.support.builders import ESSAY, PROMPT, TASK
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain

KEYS = {"api_keys": ["key-of-a-caller-"], "operator_keys": ["key-of-an-operator"]}
KEY = {"Authorization": "Bearer key-of-a-caller-"}
BODY = json.dumps({"task": TASK, "items": [{"prompt": PROMPT, "completion": ESSAY}]}).encode()
HEAD = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MIB = 1 << 20


class Answer(NamedTuple):
    """The first response on a connection."""

    status: int
    error: str
    closed: bool
    """Whether the server ended the connection after it."""


class Peer:
    """A raw connection to a service."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self.socket = socket.create_connection((address.hostname, address.port), timeout=60.0)

    def send(self, *parts: bytes) -> "Peer":
        """Send until the server stops to take it."""
        with suppress(ConnectionError):
            for part in parts:
                self.socket.sendall(part)
        return self

    def send_until_cut_off(self, part: bytes, *, pause_s: float = 0.0) -> None:
        """Send again and again. Raises `ConnectionError` once the server has ended the connection."""
        for _ in range(1_200):
            self.socket.sendall(part)
            time.sleep(pause_s)

    def answer(self) -> Answer:
        """Read one response, and to the end of the connection if the server closes it."""
        reader = self.socket.makefile("rb")
        status = int(reader.readline().split()[1])
        fields = dict(line.decode().rstrip().lower().split(": ", 1) for line in iter(reader.readline, b"\r\n"))
        text = reader.read(int(fields["content-length"]))
        body = json.loads(text) if "json" in fields["content-type"] else {}
        assert status < 400 or set(body) == {"error", "detail"}, text
        closes = fields.get("connection") == "close"
        with suppress(ConnectionError):
            assert not closes or reader.read() == b""
        return Answer(status, body.get("error", ""), closes)

    def is_closed(self) -> bool:
        """Whether the server ends the connection without an answer; waits until it does."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True


@pytest.fixture
def peer(start_reward: StartReward) -> Iterator[Callable[..., Peer]]:
    """Connects to a service; the settings of the first call are the service's."""
    peers: list[Peer] = []
    url = ""

    def connect(**settings: object) -> Peer:
        nonlocal url
        url = url or start_reward(bootstrap_tasks=[TASK], **settings).url
        peers.append(Peer(url))
        return peers[-1]

    yield connect
    for each in peers:
        each.socket.close()


@pytest.fixture(params=["reward", "meta_reward"])
def any_url(request: pytest.FixtureRequest, redis_url: str, reward_url: str, fake_engine: FakeEngine) -> Iterator[str]:
    if request.param == "reward":
        yield reward_url
        return
    with story.meta_service(redis_url, reward_url, fake_engine) as meta:
        yield str(meta.base_url)


LARGE_HEADS = {
    "one long value": ((b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * 20 * MIB), 431),
    "one long name": ((b"GET /healthz HTTP/1.1\r\n", b"x" * 20 * MIB), 431),
    "many fields": ((b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"x: y\r\n" * 3 * MIB), 431),
    "a complete head": ((b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 17_000 + b"\r\n\r\n",), 431),
    "many short fields": ((b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"x:\r\n" * 600 + b"\r\n",), 431),
    "a long URL": ((b"GET /healthz?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",), 414),
    "an endless URL": ((b"GET /healthz?", b"x" * 20 * MIB), 414),
    "trailers": (
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"x: y\r\n" * 3 * MIB),
        431,
    ),
    "a chunk extension": ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 20 * MIB), 431),
    "only line ends": ((b"\r\n" * 10 * MIB,), 431),
}


@pytest.mark.parametrize("kind", LARGE_HEADS)
def test_a_head_is_bounded(any_url: str, kind: str) -> None:
    parts, status = LARGE_HEADS[kind]
    path = b"/score" if httpx.get(f"{any_url}/openapi.json").text.count("/score") else b"/cycles/essay_writing"
    parts = (parts[0].replace(b"/score", path), *parts[1:])
    with closing((peer := Peer(any_url)).socket):
        answer = peer.send(*parts).answer()
    assert (answer.status, answer.closed) == (status, True)
    assert answer.error == {431: "head_too_large", 414: "url_too_long"}[status]


def test_heads_of_ordinary_size_are_served(any_url: str) -> None:
    cookies = {f"X-{n}": "v" * 900 for n in range(10)}
    with httpx.Client(base_url=any_url) as http:
        for _ in range(3):
            assert http.get("/healthz", params={"q": "x" * 4_000}, headers=cookies).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\nHost: local",
        b"\r\n",
        HEAD + b"Content-Length: 1000\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["head", "line end", "body", "chunks"],
)
def test_a_request_that_does_not_arrive_is_ended(peer: Callable[..., Peer], sent: bytes) -> None:
    """Also one that sends a byte now and then: the time is for the whole request."""
    slow = peer(request_timeout_s=1.0)
    slow.send(sent)
    with ThreadPoolExecutor(1) as pool:
        stop = False

        def trickle() -> None:
            while not stop:
                slow.send(b"1" if b"chunked" not in sent else b"1\r\n{\r\n") if sent.strip() else slow.send(b"\r\n")
                time.sleep(0.05)

        sending = pool.submit(trickle)
        try:
            if sent.strip():
                assert slow.answer() == Answer(408, "request_timeout", True)
            else:
                assert slow.is_closed()
        finally:
            stop = True
        sending.result()


def test_a_connection_that_sends_nothing_is_closed(peer: Callable[..., Peer]) -> None:
    assert peer(request_timeout_s=0.5).is_closed()


def test_a_slow_answer_is_no_slow_request(peer: Callable[..., Peer], fake_engine: FakeEngine) -> None:
    """The time limit is for what the client sends; the judge may take longer. A request behind it waits."""

    def judge_slowly(_: Messages) -> Reply:
        time.sleep(1.5)
        return certain(4)

    fake_engine.script = judge_slowly
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    two = peer(request_timeout_s=0.5).send(request, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert two.answer().status == 200
    assert two.socket.recv(64).split()[1] == b"200"


def test_connections_are_bounded(peer: Callable[..., Peer]) -> None:
    first = [peer(max_connections=3) for _ in range(3)]
    assert first[0].send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().status == 200
    assert peer().answer() == Answer(503, "too_many_connections", True)
    first[0].socket.close()
    first[1].socket.close()
    for _ in range(50):
        answer = peer().send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").answer()
        if answer.status == 200:
            break
    assert answer.status == 200


@pytest.mark.parametrize(
    ("lines", "status", "error"),
    [
        (b"", 401, "unauthorized"),
        (b"Authorization: Bearer wrong\r\n", 401, "unauthorized"),
        (b"Authorization: Bearer key-of-a-caller-\r\nContent-Length: 9000000\r\n", 413, "too_large"),
    ],
    ids=["no key", "wrong key", "too long"],
)
@pytest.mark.parametrize("path", [b"/score", b"/adapters/slime?task=essay_writing", b"/rubrics/essay_writing"])
def test_cheap_refusals_come_before_the_body(
    peer: Callable[..., Peer], path: bytes, lines: bytes, status: int, error: str
) -> None:
    """The answer comes although no byte of the body was sent."""
    method = b"PUT" if b"rubrics" in path else b"POST"
    head = HEAD.replace(b"POST /score", method + b" " + path) + lines
    if b"Content-Length" not in lines:
        head += b"Content-Length: 1000\r\n"
    answer = peer(**KEYS).send(head + b"\r\n").answer()
    assert (answer.status, answer.error) == (status, error)


def test_the_content_type_and_a_tenants_budget_come_before_the_body(peer: Callable[..., Peer]) -> None:
    tenants = {"small": {"keys": ["key-of-the-small-one"], "requests_per_minute": 0.01}}
    key = b"Authorization: Bearer key-of-the-small-one\r\nContent-Length: 1000\r\n\r\n"
    text = peer(tenants=tenants).send(HEAD.replace(b"application/json", b"text/plain") + key).answer()
    assert (text.status, text.error) == (422, "invalid")
    assert peer().send(HEAD + key).answer()[:2] == (429, "quota")


@pytest.mark.parametrize("path", ["/cycles/essay_writing", "/rubrics/essay_writing/rollback", "/console/login"])
def test_the_meta_reward_service_refuses_before_the_body_too(
    redis_url: str, reward_url: str, fake_engine: FakeEngine, path: str
) -> None:
    with story.meta_service(redis_url, reward_url, fake_engine, **KEYS) as meta:
        with closing((peer := Peer(str(meta.base_url))).socket):
            size = 1_000 if "console" not in path else 1_000_000
            fields = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Length: {size}"
            peer.send(fields.encode() + b"\r\nContent-Type: application/json\r\n\r\n")
            status = int(peer.socket.recv(4_096).split()[1])
        assert status == (413 if "console" in path else 401)


def test_a_body_that_is_longer_than_it_may_be_is_refused_while_it_is_read(peer: Callable[..., Peer]) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    chunked = peer(max_body_bytes=200_000).send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 4)
    assert chunked.answer()[:2] == (413, "too_large")
    endless = peer().send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 1_000)
    assert endless.is_closed() or endless.answer().status == 413


def test_all_bodies_together_are_bounded(peer: Callable[..., Peer]) -> None:
    half = HEAD + b"Content-Length: 60000\r\n\r\n" + b" " * 50_000
    held = peer(max_total_body_bytes=100_000).send(half)
    deadline = time.monotonic() + 60.0
    while (answer := peer().send(HEAD + b"Content-Length: 60000\r\n\r\n").socket).fileno() >= 0:
        answer.settimeout(0.2)
        with suppress(TimeoutError):
            reply = answer.recv(4_096)
            break
        assert time.monotonic() < deadline
    assert re.match(rb"HTTP/1.1 429 .*overloaded", reply, re.DOTALL)
    held.send(b" " * 10_000)
    assert held.answer().status == 422
    ok = peer().send(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert ok.answer().status == 200


def test_a_client_that_leaves_in_its_body_is_no_error_of_the_service(
    peer: Callable[..., Peer], caplog: pytest.LogCaptureFixture
) -> None:
    peer().send(HEAD + b"Content-Length: 1000\r\n\r\n{").socket.close()
    deadline = time.monotonic() + 60.0
    while 'status="499"' not in peer().send(b"GET /metrics HTTP/1.0\r\n\r\n").socket.makefile().read():
        assert time.monotonic() < deadline
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nhost: evil.example\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"no request at all\r\n\r\n",
    ],
)
def test_an_ambiguous_request_is_400(any_url: str, head: bytes) -> None:
    with closing((peer := Peer(any_url)).socket):
        assert peer.send(head).answer() == Answer(400, "bad_request", True)


def test_the_absolute_form_of_a_target_is_served(any_url: str) -> None:
    with closing((peer := Peer(any_url)).socket):
        peer.send(b"GET http://localhost:1/healthz HTTP/1.1\r\nHost: localhost:1\r\n\r\n")
        assert peer.answer().status == 200


def test_no_other_protocol_is_spoken(any_url: str) -> None:
    """A WebSocket would have limits of its own."""
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    with closing((peer := Peer(any_url)).socket):
        peer.send(upgrade + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert peer.answer().status == 200


def test_a_refused_request_is_read_to_its_end_and_the_connection_goes_on(peer: Callable[..., Peer]) -> None:
    client = peer(**KEYS).send(HEAD + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer() == Answer(401, "unauthorized", False)
    client.send(b"x" * 1_000, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.answer().status == 200


def test_a_refused_body_is_not_read_without_end(peer: Callable[..., Peer]) -> None:
    client = peer(**KEYS).send(HEAD + b"Content-Length: 4000000000\r\n\r\n")
    assert client.answer()[:2] == (413, "too_large")
    with pytest.raises(ConnectionError):
        client.send_until_cut_off(b"x" * MIB)


def test_a_client_that_does_not_read_is_cut_off(peer: Callable[..., Peer]) -> None:
    client = peer(request_timeout_s=1.0)
    client.send(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 16)
    with pytest.raises(ConnectionError):
        client.send_until_cut_off(b"\r\n", pause_s=0.05)


def test_few_requests_wait_on_one_connection(peer: Callable[..., Peer]) -> None:
    pipelined = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert peer().send(pipelined * 10).answer().status == 200
    answers = peer().send(pipelined * 1_000).socket.makefile("rb").read().count(b"HTTP/1.1 ")
    assert answers < 20
