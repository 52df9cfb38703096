"""JSON over HTTP to an engine: one session, explicit timeouts, and the only layer that retries, within a budget."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import aiohttp
import msgspec
from pydantic import SecretStr
from pydantic_core import from_json

from regrade.backoff import backoff_s
from services.kit.http.load_balancing import Endpoint, Endpoints, RetryBudget, split_urls

_MAX_RESPONSE_BYTES = 16_000_000
"""Above the log-probabilities of the largest batch; a larger body is not read to its end."""

_BUSY_STATUS = frozenset({408, 429})
_RETRIED_STATUS = _BUSY_STATUS | {500, 502, 503, 504}
_PROBE_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class UpstreamError(Exception):
    """The upstream gave no usable answer."""

    retryable = True


class UpstreamUnavailable(UpstreamError):
    """No answer within the retries: refused connections, timeouts, 5xx, 429."""


class UpstreamBusy(UpstreamUnavailable):
    """The upstream is up and takes no more requests at present: 429, 408."""


class UpstreamRefused(UpstreamError):
    """The request itself was refused, with `status` where it was by HTTP; a retry would be refused, too."""

    retryable = False

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UpstreamMalformed(UpstreamError):
    """A response that does not follow the protocol."""


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
    at once on another endpoint, else after a wait that starts at `backoff_s` and doubles. An endpoint that keeps
    failing is ejected until it answers a GET of `probe_path` and `check_probe`, which may raise `UpstreamError`,
    accepts the answer. With every endpoint ejected, requests fail at once.
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
    ) -> None:
        self._session = session
        self._endpoints = Endpoints(split_urls(base_urls, key.get_secret_value() if key is not None else ""))
        self._budget = RetryBudget()
        self._retries = retries
        self._backoff_s = backoff_s
        self._probe_path = probe_path
        self._metrics = metrics
        self.check_probe: Callable[[Any], None] = lambda _: None

    async def get(self, path: str) -> Any:
        """One GET. Raises `UpstreamError`."""
        return await self._with_retries(_Request("GET", path))

    async def post(self, path: str, payload: Any, weight: int = 1, read: Callable[[bytes], Any] = from_json) -> Any:
        """One POST, its response parsed by `read`; it counts as `weight` requests in flight.

        Raises `UpstreamError`; `UpstreamMalformed` when `read` raises `ValueError`.
        """
        return await self._with_retries(_Request("POST", path, msgspec.json.encode(payload), weight, read))

    async def probe_all(self) -> list[Any]:
        """Probe every endpoint and return the answers of those that are up, in order.

        None stands for an endpoint that is up and does not answer the probe with JSON. Raises `UpstreamUnavailable`
        when none is up.
        """
        probes = await asyncio.gather(*(self._probe(endpoint) for endpoint in self._endpoints.all))
        answers = [probe for probe in probes if not isinstance(probe, UpstreamError)]
        if not answers:
            raise UpstreamUnavailable(f"no answer to a probe: {probes[0]}")
        return answers

    async def _with_retries(self, request: _Request) -> Any:
        self._budget.record_request()
        tried: set[Endpoint] = set()
        for attempt in range(self._retries + 1):
            endpoint = await self._choose(tried)
            try:
                return await self._send_to(endpoint, request)
            except UpstreamUnavailable:
                if attempt == self._retries or not self._affords_retry():
                    raise
            tried.add(endpoint)
            if self._endpoints.least_loaded(tried) in tried:
                await asyncio.sleep(backoff_s(attempt + 1, first_s=self._backoff_s))
        raise AssertionError("unreachable")

    async def _choose(self, tried: set[Endpoint]) -> Endpoint:
        candidate = self._endpoints.ready_for_probe(time.monotonic())
        if candidate is not None:
            await self._probe(candidate)
        endpoint = self._endpoints.least_loaded(tried)
        if endpoint is None:
            raise UpstreamUnavailable(f"all {len(self._endpoints.all)} endpoints are ejected after repeated failures")
        return endpoint

    async def _send_to(self, endpoint: Endpoint, request: _Request) -> Any:
        try:
            with endpoint.load(request.weight):
                answer = await self._send(endpoint, request)
        except UpstreamBusy:
            raise
        except UpstreamUnavailable as error:
            if endpoint.record_failure(time.monotonic()):
                log.warning("endpoint ejected", extra={"endpoint": endpoint.address.name, "detail": str(error)})
                self._report_ejected()
            raise
        except UpstreamRefused:
            endpoint.record_success()
            raise
        if request.method == "POST":  # a server whose model hangs may still answer a GET
            endpoint.record_success()
        return answer

    async def _probe(self, endpoint: Endpoint) -> Any:
        """Probe an endpoint: the answer, and it is back in service; or the error, and it is ejected."""
        endpoint.probed = True
        try:
            answer = await self._get_probe(endpoint)
            self.check_probe(answer)
        except UpstreamError as error:
            log.warning("endpoint failed its probe", extra={"endpoint": endpoint.address.name, "detail": str(error)})
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
        except (UpstreamRefused, UpstreamMalformed):
            return None
        except TimeoutError as error:
            raise UpstreamUnavailable(f"no answer in {_PROBE_TIMEOUT_S} s at {self._probe_path}") from error

    async def _send(self, endpoint: Endpoint, request: _Request) -> Any:
        address, path = endpoint.address, request.path
        headers = address.headers | {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                request.method, address.url + path, data=request.body, headers=headers, allow_redirects=False
            ) as response:
                answer = await _bounded_body(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamUnavailable(f"{type(error).__name__} at {path}") from error
        if response.status in _BUSY_STATUS:
            raise UpstreamBusy(f"HTTP {response.status} at {path}")
        if response.status in _RETRIED_STATUS:
            raise UpstreamUnavailable(f"HTTP {response.status} at {path}")
        if response.status >= 300:
            detail = answer[:300].decode(errors="replace")
            raise UpstreamRefused(f"HTTP {response.status} at {path}: {detail}", response.status)
        try:
            return request.read(answer)
        except ValueError as error:
            raise UpstreamMalformed(f"no usable answer at {path} ({type(error).__name__})") from error

    def _affords_retry(self) -> bool:
        afforded = self._budget.try_spend()
        if self._metrics is not None:
            self._metrics.retry(afforded=afforded)
        return afforded

    def _report_ejected(self) -> None:
        if self._metrics is not None:
            self._metrics.endpoints_ejected(self._endpoints.ejected)


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes:
    chunks = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        chunks += chunk
        if len(chunks) > _MAX_RESPONSE_BYTES:
            raise UpstreamMalformed(f"a response of more than {_MAX_RESPONSE_BYTES} bytes")
    return bytes(chunks)
