"""Engines behind a proxy: the environment's rules, but never for loopback; errors name the proxy, not its password."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from aiohttp import web

from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamDenied, UpstreamUnavailable
from services.kit.http.proxies import proxy_of
from tests.support.fake_engine import FakeEngine

BODY = {"messages": [{"role": "user", "content": "x"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Proxy:
    """An HTTP proxy that answers each request from an engine of its own, wherever it was for."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.logins: list[str | None] = []
        self.status = 200

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.targets.append(str(request.raw_path if "://" in request.raw_path else request.url))
        self.logins.append(request.headers.get("Proxy-Authorization"))
        return web.json_response({"choices": ["by proxy"]}, status=self.status)


@pytest.fixture
async def proxy() -> Proxy:
    """A proxy whose `url` is set once it listens."""
    return Proxy()


async def _served(proxy: Proxy) -> tuple[web.ServerRunner, str]:
    runner = web.ServerRunner(web.Server(proxy.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"127.0.0.1:{runner.addresses[0][1]}"


@pytest.mark.parametrize("scheme", ["http://me:hush@", "http://", ""])
async def test_an_engine_is_reached_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, proxy: Proxy, scheme: str
) -> None:
    runner, place = await _served(proxy)
    monkeypatch.setenv("HTTP_PROXY" if scheme else "ALL_PROXY", f"{scheme}{place}")
    try:
        async with open_session(connections=1, timeout_s=60.0) as session:
            json_client = JsonClient(session, "http://judge.invalid:8000/v1", retries=0)
            assert await json_client.post(CHAT, BODY) == {"choices": ["by proxy"]}
            proxy.status = 407
            with pytest.raises(UpstreamDenied, match=f"behind a proxy that refuses us: .*through the proxy {place}"):
                await json_client.post(CHAT, BODY)
    finally:
        await runner.cleanup()
    assert proxy.targets[0] == "http://judge.invalid:8000/v1/chat/completions"
    assert (proxy.logins[0] is not None) == ("@" in scheme)


async def test_a_proxy_that_is_away_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:hush@127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://me:hush@127.0.0.1:1")
    async with open_session(connections=1, timeout_s=60.0) as session:
        for scheme in ("http", "https"):
            json_client = JsonClient(session, f"{scheme}://judge.invalid", retries=0)
            with pytest.raises(UpstreamUnavailable, match=r"through the proxy 127\.0\.0\.1:1") as raised:
                await json_client.post(CHAT, BODY)
            assert "hush" not in str(raised.value)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A scripted engine on loopback."""
    with closing(FakeEngine()) as fake:
        yield fake


async def test_loopback_is_reached_directly(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with open_session(connections=1, timeout_s=60.0) as session:
        assert (await JsonClient(session, engine.url, retries=0).post(CHAT, BODY))["choices"]


async def test_a_socks_proxy_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://me:hush@127.0.0.1:1080")
    async with open_session(connections=1, timeout_s=60.0) as session:
        json_client = JsonClient(session, "http://judge.invalid", name="the judge")
        with pytest.raises(
            UpstreamDenied, match=r"the judge .*socks5h proxies are not supported \(127.*1080\)"
        ) as raised:
            await json_client.post(CHAT, BODY)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("judge", "", False),
        ("judge", "judge", True),
        ("judge.regrade.svc", ".svc", True),
        ("judge.regrade.svc", "svc.example", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8,nonsense/99", False),
        ("anything.example", "*", True),
        ("localhost", "", True),
        ("127.9.9.9", "", True),
        ("[::1]", "", True),
        ("judge.localhost", "", True),
    ],
)
def test_which_hosts_are_reached_directly(
    monkeypatch: pytest.MonkeyPatch, host: str, no_proxy: str, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    proxy = proxy_of(f"https://{host}:8443/v1")
    assert (proxy is None) == direct
    assert proxy_of(f"http://{host}") is None, "HTTPS_PROXY is for https alone"
