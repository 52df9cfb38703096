"""Address, key, proxy and certificate: refused at once where they cannot work, named in errors, and no key in any."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from regrade import BlockingRewardClient, ConfigurationError, RegradeError, RewardClient, ServiceUnavailableError
from regrade.adapters.core import Scorer, close_client_threads
from regrade.adapters.trl import RegradeReward
from regrade.cli.main import app
from regrade.proxies import is_this_machine, masked, proxy_for
from regrade.transport import RetryBudget, checked_key, checked_url
from tests.support.builders import TASK
from tests.support.scripted import Answer, scripted_service

READY = Answer(200, {"redis": True})
OPENSSL = shutil.which("openssl") or "openssl"
SECRET = "s3cret-of-the-key"
COMMANDS = (f"rubric show {TASK}", f"score {TASK} --prompt p --completion c", f"doctor {TASK}", f"cycles list {TASK}")
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(self: RetryBudget, at_least_s: float = 0.0) -> bool:
        raise AssertionError("a retry")

    monkeypatch.setattr(RetryBudget, "wait", wait)


@pytest.mark.parametrize("key", [f"{SECRET}\n", f" {SECRET}\r\n", f"\t{SECRET} "])
async def test_white_space_around_a_key_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("REGRADE_KEY", key)
    with scripted_service([READY]) as service:
        async with RewardClient(service.url) as client, RewardClient(service.url, key=key) as other:
            await client.readiness()
            await other.readiness()
    assert [request.key for request in service.requests] == [f"Bearer {SECRET}"] * 2


@pytest.mark.parametrize("bad", ["\n", " ", "\0", "\x7f", "\u00e9", "\u2028", "\ud83d", "\U0001f511"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    key = f"s3cret{bad}of-the-key"
    monkeypatch.setenv("REGRADE_TASK", TASK)
    makers = (checked_key, lambda k: RewardClient(key=k), lambda k: BlockingRewardClient(key=k),
              lambda k: Scorer(key=k), lambda k: RegradeReward(key=k))  # fmt: skip
    for make in makers:
        with pytest.raises(ConfigurationError, match="character 7 of 17 of the API key") as refused:
            make(key)
        assert "s3cret" not in "".join(map(repr, (refused.value, refused.value.__cause__, refused.value.__context__)))
    if bad in "\n \x7f\u00e9":  # what an environment variable can hold, of these
        monkeypatch.setenv("REGRADE_KEY", key)
        for command in COMMANDS:
            result = CliRunner().invoke(app, command.split())
            assert result.exit_code == 1
            assert "character 7 of 17" in result.stderr
            assert "s3cret" not in f"{result.output}{result.stderr}{result.exception!r}"


def test_a_mistyped_option_is_refused_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="kye") as refused:
        Scorer(task=TASK, kye=SECRET)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "example"),
    [
        ("localhost:8700", "http://localhost:8700"),
        ("127.0.0.1:8700", "http://127.0.0.1:8700"),
        ("reward.example", "http://reward.example"),
        ("//host:8700", "http://127.0.0.1:8700"),
        ("http://", "http://127.0.0.1:8700"),
        ("http:///path", "http://127.0.0.1:8700"),
        ("ftp://host", "http://127.0.0.1:8700"),
        ("http://host:99999", "http://127.0.0.1:8700"),
        ("http://host:port", "http://127.0.0.1:8700"),
        ("http://ho st", "http://127.0.0.1:8700"),
        ("http://host/?task=x", "http://127.0.0.1:8700"),
        ("/path", "http://127.0.0.1:8700"),
    ],
)
def test_a_url_that_is_none_is_refused_with_an_example(monkeypatch: pytest.MonkeyPatch, url: str, example: str) -> None:
    monkeypatch.setenv("REGRADE_TASK", TASK)
    for make in (checked_url, RewardClient, lambda given: Scorer(url=given)):
        with pytest.raises(ConfigurationError, match="give scheme and host") as refused:
            make(url)
        assert url in str(refused.value)
        assert str(refused.value).endswith(f"such as {example}")
    if "://" in url:  # the command line takes a URL without a scheme
        result = CliRunner().invoke(app, ["rubric", "show", TASK, "--url", url])
        assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
        assert "give scheme and host" in " ".join(result.stderr.split())


@pytest.mark.parametrize("url", ["http://user:s3cret@host:port", "user:s3cret@host", "http://:s3/cr@et@ho st"])
def test_credentials_of_a_url_are_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        checked_url(url)
    assert "s3" not in str(refused.value)
    assert "***@" in masked(url)


async def test_credentials_of_a_url_are_sent_and_neither_shown_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with scripted_service([READY, Answer(404, b"nothing here")]) as service:
        async with RewardClient(service.url.replace("//", f"//user:{SECRET}@")) as client:
            await client.readiness()
            with pytest.raises(RegradeError) as refused:
                await client.rubric(TASK)
    assert service.requests[0].key == httpx.BasicAuth("user", SECRET)._auth_header
    assert SECRET not in caplog.text + str(refused.value)
    async with RewardClient(f"http://user:{SECRET}@127.0.0.1:9", patience_s=0.0) as client:
        with pytest.raises(ServiceUnavailableError, match=r"http://127\.0\.0\.1:9: ConnectError") as refused:
            await client.rubric(TASK)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("error", [
    httpx.LocalProtocolError(f"Illegal header value b'Bearer {SECRET}'"),
    httpx.UnsupportedProtocol("Request URL has an unsupported protocol"),
    httpx.ProxyError("407 Proxy Authentication Required"),
])  # fmt: skip
async def test_a_permanent_error_is_not_retried(
    no_retry: None, monkeypatch: pytest.MonkeyPatch, error: httpx.RequestError
) -> None:
    async def fail(*args: Any, **options: Any) -> httpx.Response:
        raise error

    async with RewardClient("http://127.0.0.1:9", key=SECRET) as client:
        monkeypatch.setattr(httpx.AsyncClient, "request", fail)
        with pytest.raises(ConfigurationError, match="unreachable") as refused:
            await client.rubric(TASK)
    assert SECRET not in f"{refused.value!r}{refused.value.__cause__!r}{refused.value.__context__!r}"


@pytest.mark.parametrize("error", [
    httpx.ConnectError("refused"), httpx.ReadTimeout(""), httpx.RemoteProtocolError("closed"), httpx.PoolTimeout(""),
    httpx.WriteError("reset"), httpx.DecodingError("no gzip"), httpx.ProxyError("502 Bad Gateway"),
])  # fmt: skip
async def test_an_error_that_may_pass_is_retried(monkeypatch: pytest.MonkeyPatch, error: httpx.RequestError) -> None:
    failures = iter([error, error])
    original = httpx.AsyncClient.request

    async def fail_twice(self: httpx.AsyncClient, *args: Any, **options: Any) -> httpx.Response:
        for failure in failures:
            raise failure
        return await original(self, *args, **options)

    monkeypatch.setattr(httpx.AsyncClient, "request", fail_twice)
    with scripted_service([READY]) as service:
        async with RewardClient(service.url) as client:
            assert await client.call("GET", "/x", dict[str, bool]) == {"redis": True}


class TlsServer:
    """Speaks TLS with a certificate that nobody has signed."""

    def __init__(self, folder: Path) -> None:
        certificate, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        self.certificate = certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=context))
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"redis": true}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path)
    yield server
    server.close()


async def test_a_certificate_that_is_not_trusted_is_permanent(
    no_retry: None, tls: TlsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with RewardClient(tls.url) as client:
        with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
            await client.call("GET", "/x", dict[str, bool])
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    async with RewardClient(tls.url) as client:
        assert await client.call("GET", "/x", dict[str, bool]) == {"redis": True}
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        RewardClient(tls.url)


async def test_tls_to_a_port_without_it_is_permanent(no_retry: None) -> None:
    with scripted_service([READY]) as service:
        async with RewardClient(service.url.replace("http:", "https:")) as client:
            with pytest.raises(ConfigurationError, match="http://"):
                await client.rubric(TASK)


async def test_a_name_that_does_not_exist_is_retried_for_long_only_if_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped name must not cost ten minutes, and a service that restarts may be without its name."""
    limits: list[float] = []
    monkeypatch.setattr(RetryBudget, "limit", lambda self, seconds: limits.append(seconds))
    resolve = socket.getaddrinfo
    with scripted_service([READY._replace(headers={"Connection": "close"})]) as service:
        known, port = service.url.removeprefix("http://").split(":")

        def named(host: Any, *args: Any, **options: Any) -> Any:
            if host not in ("reward.example", b"reward.example"):
                return resolve(host, *args, **options)
            if not is_known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return resolve(known, *args, **options)

        is_known = False
        monkeypatch.setattr(socket, "getaddrinfo", named)
        async with RewardClient(f"http://reward.example:{port}", patience_s=0.0) as client:
            with pytest.raises(ServiceUnavailableError, match="not known"):
                await client.rubric(TASK)
            assert limits == [5.0]
            is_known = True
            await client.call("GET", "/x", dict[str, bool])
            is_known = False
            with pytest.raises(ServiceUnavailableError, match="not known"):
                await client.rubric(TASK)
    assert limits == [5.0]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "127.0.0.1:9", "nonsense://x"])
async def test_an_address_of_this_machine_is_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    with scripted_service([READY]) as service:
        for host in ("127.0.0.1", "localhost"):
            async with RewardClient(service.url.replace("127.0.0.1", host)) as client:
                assert await client.readiness() == {"redis": True}


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("a.localhost", True), ("LOCALHOST.", True), ("127.8.9.1", True), ("::1", True),
     ("0.0.0.0", True),  # noqa: S104
     ("[::1]", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("example.com", False),
     ("localhost.example.com", False), ("1.127.0.0", False), ("fe80::1%eth0", False)],
)  # fmt: skip
def test_addresses_of_this_machine(host: str, own: bool) -> None:
    assert is_this_machine(host) is own


async def test_a_proxy_is_used_and_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_service([READY, Answer(502, b"bad gateway"), Answer(407, b"who are you?")]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", f"//user:{SECRET}@"))
        route = rf"via proxy http://\*\*\*@{proxy.url.removeprefix('http://')} from HTTP_PROXY"
        async with RewardClient("http://reward.example:8700", patience_s=0.0) as client:
            assert await client.readiness() == {"redis": True}
            with pytest.raises(ServiceUnavailableError, match=route):
                await client.rubric(TASK)
            with pytest.raises(RegradeError, match=route):
                await client.rubric(TASK)
    async with RewardClient("http://reward.example:8700", patience_s=0.0) as client:
        with pytest.raises(ServiceUnavailableError, match=route) as refused:
            await client.rubric(TASK)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("excepted", "host"),
    [("*", "a.example"), ("a.example", "a.example"), (".example", "a.example"), ("example", "a.example"),
     ("*.example", "a.example"), ("x, A.Example", "a.example"), ("a.example:8700", "a.example"),
     ("10.1.2.3", "10.1.2.3"), ("x, *", "a.example"), ("a.example.", "a.example"), ("[fd00::1]:8700", "[fd00::1]"),
     ("10.0.0.0/8", "10.1.2.3"), ("fd00::/8", "[fd00::1]"), ("x y,10.0.0.0/8", "10.1.2.3")],
)  # fmt: skip
def test_no_proxy_excepts_a_host(monkeypatch: pytest.MonkeyPatch, excepted: str, host: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    url = httpx.URL(f"http://{host}:8700")
    assert str(proxy_for(url)) == "via proxy http://proxy:3128 from http_proxy"
    for name in ("no_proxy", "NO_PROXY"):
        with monkeypatch.context() as context:
            context.setenv(name, excepted)
            assert proxy_for(url) is None


@pytest.mark.parametrize("excepted", ["b.example", "ample", "10.0.0.0/8", "a.example:80", "", ","])
def test_no_proxy_excepts_no_other_host(monkeypatch: pytest.MonkeyPatch, excepted: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", excepted)
    assert proxy_for(httpx.URL("http://a.example:8700")) is not None


@pytest.mark.parametrize(
    ("proxy", "mentions"),
    [
        (f"socks5://user:{SECRET}@proxy:1080", ("ALL_PROXY=socks5://***@proxy:1080", "httpx[socks]", "NO_PROXY=a.ex")),
        ("socks5h://proxy:1080", ("httpx[socks]",)),
        ("socks4://proxy:1080", ("no HTTP or SOCKS5 proxy", "NO_PROXY=a.example")),
        ("ftp://proxy", ("no HTTP or SOCKS5 proxy",)),
        (f"http://user:{SECRET}@proxy:port", ("is no URL", "ALL_PROXY")),
        ("http://", ("is no URL",)),
        ("http://proxy:70000", ("is no URL",)),
        ("http://two words:3128", ("is no URL",)),
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_says_which_setting_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, proxy: str, mentions: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as refused:
        RewardClient("http://a.example")
    assert all(mention in str(refused.value) for mention in mentions), str(refused.value)
    assert SECRET not in str(refused.value)


async def test_what_is_not_the_service_is_named(no_retry: None) -> None:
    answers = [
        Answer(200, b"<html>a portal</html>"),
        Answer(200, {"models": []}),
        Answer(302, b"", {"Location": "/login"}),
    ]
    with scripted_service(answers) as service:
        async with RewardClient(service.url) as client:
            for mention in ("a portal", "models", "redirects to /login"):
                with pytest.raises(RegradeError, match=mention) as refused:
                    await client.rubric(TASK)
                assert service.url in str(refused.value)
            with pytest.raises(RegradeError):
                await client.readiness()


def test_adapters_are_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRADE_URL", "localhost:8700")
    with pytest.raises(ConfigurationError, match="http://localhost:8700"):
        RegradeReward(TASK)
    close_client_threads()
