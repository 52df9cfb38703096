"""JSON over HTTP to an engine: one session, explicit timeouts, and the only layer that retries, within a budget."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import aiohttp
import msgspec
from pydantic import SecretStr
from pydantic_core import from_json

from regrade.backoff import backoff_s
from services.kit.http.addresses import Address, split_urls
from services.kit.http.errors import (
    UpstreamBusy,
    UpstreamDenied,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from services.kit.http.load_balancing import Endpoint, Endpoints, RetryBudget
from services.kit.http.refusals import (
    ErrorInside,
    Source,
    embedded_error,
    error_of_object,
    error_of_status,
    readable,
    retry_after_s,
    shortened,
)

_MAX_RESPONSE_BYTES = 16_000_000
"""Above the log-probabilities of the largest batch; a larger body is not read to its end."""

_PROBE_TIMEOUT_S = 5.0
_MAX_PAUSE_S = 60.0
"""The longest pause of an upstream that is waited for here; callers are told of a longer one at once."""
_LISTS_NOTHING = frozenset({403, 404, 405, 501})
"""Statuses of a probe by servers that do not list their models, or not to every key, and may serve them."""

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

log = logging.getLogger(__name__)


@contextmanager
def call_deadline(deadline: float | None) -> Iterator[None]:
    """Requests of tasks started in this context wait for no pause that ends after `deadline`, a monotonic time."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


class UpstreamMetrics(Protocol):
    """Counts ejections and retries."""

    def endpoints_ejected(self, count: int) -> None:
        """The number of endpoints that are ejected."""
        ...

    def retry(self, *, afforded: bool) -> None:
        """A request failed; it is retried if the budget affords it."""
        ...


class _Request(NamedTuple):
    method: str
    path: str
    body: bytes | None = None
    weight: int = 1
    read: Callable[[bytes], Any] = from_json
    optional: bool = False
    """A refusal says nothing about the endpoint: it may not have this route."""


def open_session(
    *, connections: int, timeout_s: float, traced: aiohttp.TraceConfig | None = None
) -> aiohttp.ClientSession:
    """An HTTP session with at most `connections` connections and `timeout_s` for a whole call."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=60.0),
        cookie_jar=aiohttp.DummyCookieJar(),  # engines set none that matter
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=5.0),
        trace_configs=[traced] if traced is not None else None,
    )


class JsonClient:
    """A JSON API behind one or several base URLs (comma-separated) that serve the same.

    A request goes to the endpoint with the fewest requests in flight. A failed one is retried up to `retries` times:
    at once on another endpoint, else after the pause that the endpoint asks for (`Retry-After`), or after a wait that
    starts at `backoff_s` and doubles. An endpoint that keeps failing is ejected until it answers a GET of `probe_path`
    and `check_probe`, which may raise `UpstreamError`, accepts the answer. With every endpoint ejected, requests fail
    at once. A proxy that the environment names is used, except for loopback. `name` stands in errors.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_urls: str,
        *,
        key: SecretStr | None = None,
        retries: int = 2,
        backoff_s: float = 0.2,
        probe_path: str = "/v1/models",
        metrics: UpstreamMetrics | None = None,
        name: str = "the engine",
    ) -> None:
        self._session = session
        self._endpoints = Endpoints(split_urls(base_urls, key.get_secret_value() if key is not None else ""))
        self._budget = RetryBudget()
        self._retries = retries
        self._backoff_s = backoff_s
        self._probe_path = probe_path
        self._metrics = metrics
        self._name = name
        self.check_probe: Callable[[Any], None] = lambda _: None

    async def get(self, path: str) -> Any:
        """One GET. Raises `UpstreamError`."""
        return await self._with_retries(_Request("GET", path))

    async def find(self, path: str, payload: Any = None) -> Any:
        """The JSON of a route that not every server has, by POST if there is a `payload`; None where it has none.

        Raises `UpstreamUnavailable` for a server that does not respond.
        """
        body = None if payload is None else msgspec.json.encode(payload)
        try:
            return await self._with_retries(_Request("GET" if body is None else "POST", path, body, optional=True))
        except (UpstreamDenied, UpstreamRefused, UpstreamMalformed):
            return None

    async def has_post_route(self, path: str) -> bool:
        """Whether the server has a route for POST, by its answer to a GET: 405, not 404."""
        try:
            await self._with_retries(_Request("GET", path, optional=True))
        except UpstreamDenied as error:
            return error.status == 405
        except (UpstreamRefused, UpstreamMalformed):
            pass
        return False

    async def post(self, path: str, payload: Any, weight: int = 1, read: Callable[[bytes], Any] = from_json) -> Any:
        """One POST, its response parsed by `read`; it counts as `weight` requests in flight.

        Raises `UpstreamError`; `UpstreamMalformed` when `read` raises `ValueError`.
        """
        return await self._with_retries(_Request("POST", path, msgspec.json.encode(payload), weight, read))

    async def probe_all(self) -> list[Any]:
        """Probe every endpoint and return the answers of those that are up, in order.

        An `UpstreamError` stands for an endpoint that is up and does not answer the probe with JSON. Raises
        `UpstreamUnavailable` when none is up.
        """
        probes = await asyncio.gather(*(self._probe(endpoint) for endpoint in self._endpoints.all))
        if not any(endpoint.in_service for endpoint in self._endpoints.all):
            raise self._none_in_service()
        return [probe for probe, e in zip(probes, self._endpoints.all, strict=True) if e.in_service]

    async def _with_retries(self, request: _Request) -> Any:
        self._budget.record_request()
        tried: set[Endpoint] = set()
        for attempt in range(self._retries + 1):
            endpoint = await self._choose(tried)
            await self._wait_for_pause(endpoint)
            try:
                return await self._send_to(endpoint, request)
            except UpstreamUnavailable as error:
                tried.add(endpoint)
                if not self._is_worth_a_retry(error, attempt, tried):
                    raise
            other = self._endpoints.least_loaded(tried, time.monotonic())
            if other in tried and endpoint.paused_until <= time.monotonic():
                await asyncio.sleep(backoff_s(attempt + 1, first_s=self._backoff_s))
        raise AssertionError("unreachable")

    def _is_worth_a_retry(self, error: UpstreamUnavailable, attempt: int, tried: set[Endpoint]) -> bool:
        if attempt == self._retries:
            return False
        if isinstance(error, UpstreamDenied) and self._endpoints.least_loaded(tried, time.monotonic()) in (
            None,
            *tried,
        ):
            return False
        return self._affords_retry()

    async def _choose(self, tried: set[Endpoint]) -> Endpoint:
        now = time.monotonic()
        candidate = self._endpoints.ready_for_probe(now)
        if candidate is not None:
            await self._probe(candidate)
        endpoint = self._endpoints.least_loaded(tried, now)
        if endpoint is None:
            raise self._none_in_service()
        return endpoint

    async def _wait_for_pause(self, endpoint: Endpoint) -> None:
        """Wait until the endpoint takes requests. Raises `UpstreamBusy` if the deadline or the patience ends before."""
        pause = endpoint.paused_until - time.monotonic()
        if pause <= 0.0:
            return
        deadline = _deadline.get()
        if pause > _MAX_PAUSE_S or (deadline is not None and time.monotonic() + pause > deadline):
            raise UpstreamBusy(f"{self._name} takes no request for {pause:.0f} s: {endpoint.last_error}", pause)
        await asyncio.sleep(pause + random.uniform(0.0, 0.1 * pause))  # noqa: S311 - no secret

    def _none_in_service(self) -> UpstreamUnavailable:
        errors = [endpoint.last_error for endpoint in self._endpoints.all]
        count = len(errors)
        last = next((error for error in errors if error is not None), None)
        if isinstance(last, UpstreamDenied) and all(isinstance(error, UpstreamDenied) for error in errors):
            return UpstreamDenied(str(last), last.status)
        return UpstreamUnavailable(f"all {count} endpoints are ejected after repeated failures, the last: {last}")

    async def _send_to(self, endpoint: Endpoint, request: _Request) -> Any:
        started = time.monotonic()
        try:
            with endpoint.load(request.weight):
                answer = await self._send(endpoint, request)
        except UpstreamUnavailable as error:
            self._note_failure(endpoint, request, error, started)
            raise
        except UpstreamRefused:
            endpoint.record_success()
            raise
        if request.method == "POST" and not request.optional:  # a server whose model hangs may still answer a GET
            endpoint.record_success()
        return answer

    def _note_failure(self, endpoint: Endpoint, request: _Request, error: UpstreamUnavailable, started: float) -> None:
        now = time.monotonic()
        if request.optional and isinstance(error, UpstreamDenied):
            return
        endpoint.last_error = error
        if error.retry_after_s is not None:
            endpoint.pause(now + error.retry_after_s)
        if isinstance(error, UpstreamDenied):
            if len(self._endpoints.all) > 1:
                endpoint.eject(now)
                self._report_ejected()
            return
        if isinstance(error, UpstreamBusy):
            return
        if isinstance(error, UpstreamDisconnected) and endpoint.is_known_disconnect(now, started):
            return
        if endpoint.record_failure(now):
            log.warning("endpoint ejected", extra={"endpoint": endpoint.address.name, "detail": str(error)})
            self._report_ejected()

    async def _probe(self, endpoint: Endpoint) -> Any:
        """Probe an endpoint: the answer, and it is back in service; or the error, and it is ejected."""
        endpoint.probed = True
        try:
            answer = await self._get_probe(endpoint)
            self.check_probe(answer)
        except UpstreamError as error:
            log.warning("endpoint failed its probe", extra={"endpoint": endpoint.address.name, "detail": str(error)})
            endpoint.last_error = error
            endpoint.eject(time.monotonic())
            return error
        else:
            endpoint.reinstate()
            return answer
        finally:
            endpoint.probed = False
            self._report_ejected()

    async def _get_probe(self, endpoint: Endpoint) -> Any:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                return await self._send(endpoint, _Request("GET", self._probe_path))
        except (UpstreamDenied, UpstreamRefused) as error:
            if error.status in _LISTS_NOTHING:
                return error
            raise
        except UpstreamMalformed as error:
            return error
        except TimeoutError as error:
            url = endpoint.address.url(self._probe_path)
            raise UpstreamUnavailable(f"no answer in {_PROBE_TIMEOUT_S} s at {url}") from error

    async def _send(self, endpoint: Endpoint, request: _Request) -> Any:
        address, proxy = endpoint.address, endpoint.proxy
        url = address.url(request.path)
        if proxy is not None and proxy.problem:
            raise UpstreamDenied(f"{self._name} at {url}: {proxy.problem}")
        source = Source(self._name, url if proxy is None else f"{url} through the proxy {proxy.name}")
        headers = address.headers | {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                request.method,
                url,
                data=request.body,
                headers=headers,
                allow_redirects=False,
                proxy=None if proxy is None else proxy.url,
            ) as response:
                body = await _bounded_body(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _transport_error(error, source) from error
        report = _Report(response.status, retry_after_s(response.headers), body, address, source)
        problem = report.error()
        if problem is not None:
            raise problem
        try:
            return request.read(body)
        except ErrorInside as inside:
            raise error_of_object(inside.error, report.detail, source, report.retry_after_s) from inside
        except (ValueError, RecursionError) as malformed:
            text = f"no usable answer at {source.place} ({type(malformed).__name__}): {report.detail}"
            raise UpstreamMalformed(text) from malformed

    def _affords_retry(self) -> bool:
        afforded = self._budget.try_spend()
        if self._metrics is not None:
            self._metrics.retry(afforded=afforded)
        return afforded

    def _report_ejected(self) -> None:
        if self._metrics is not None:
            self._metrics.endpoints_ejected(self._endpoints.ejected)


class _Report(NamedTuple):
    """An HTTP answer, to find out whether it is an error."""

    status: int
    retry_after_s: float | None
    body: bytes
    address: Address
    source: Source

    @property
    def detail(self) -> str:
        """The beginning of the body as text, without secrets."""
        return shortened(self.address.masked(readable(self.body)))

    def error(self) -> UpstreamError | None:
        if self.status >= 300:
            return error_of_status(self.status, self.detail, self.source, self.retry_after_s)
        error = embedded_error(self.body)
        return None if error is None else error_of_object(error, self.detail, self.source, self.retry_after_s)


def _transport_error(error: aiohttp.ClientError | TimeoutError, source: Source) -> UpstreamUnavailable:
    """The error of a request without an HTTP answer; without the exception's text, which may hold secrets."""
    reason = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        reason = f"{reason} ({error.os_error.strerror})"
    text = f"{reason} at {source.place}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"HTTP {error.status} of the proxy, at {source.place}"
        return UpstreamDenied(text, error.status) if error.status in (401, 403, 407) else UpstreamUnavailable(text)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return UpstreamDisconnected(text)
    if isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamDisconnected(text)
    return UpstreamUnavailable(text)


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes:
    chunks = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        chunks += chunk
        if len(chunks) > _MAX_RESPONSE_BYTES:
            raise UpstreamMalformed(f"a response of more than {_MAX_RESPONSE_BYTES} bytes")
    return bytes(chunks)
