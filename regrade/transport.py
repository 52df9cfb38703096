"""HTTP to one service: address and key, retries of what may pass, and errors that say what decides. No key in any."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx

from regrade.backoff import backoff_s
from regrade.errors import (
    AccessError,
    ConfigurationError,
    PinConflictError,
    RegradeError,
    RequestError,
    ServiceUnavailableError,
    TooLargeError,
)
from regrade.proxies import is_host, masked, proxy_for

_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_ERRORS = {401: AccessError, 403: AccessError, 409: PinConflictError, 413: TooLargeError}
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 30.0
_UNKNOWN_NAME_S = 5.0
"""For a host name that does not exist and never did: a mistyped one, or a container that is about to start."""
_SERVICE_TIMEOUT_SHARE = 0.9
"""The share of `timeout_s` that the service may use; the rest is for the network in both directions."""
_PASSING_TLS_ERRORS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


class RetryBudget:
    """The retries of one call: growing, jittered waits until `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        self._started = time.monotonic()
        self._seconds = seconds
        self._failures = 0

    def limit(self, seconds: float) -> None:
        """Allow no more than this many seconds since the start."""
        self._seconds = min(self._seconds, seconds)

    async def wait(self, at_least_s: float = 0.0) -> bool:
        """Wait before the next try; False at once if the time would be over by then."""
        self._failures += 1
        pause = max(at_least_s, backoff_s(self._failures, first_s=_FIRST_WAIT_S, max_s=_LONGEST_WAIT_S))
        if time.monotonic() + pause > self._started + self._seconds:
            return False
        await asyncio.sleep(pause)
        return True


class Transport:
    """Requests to the service at `url` with API key `key`. Raises `ConfigurationError` where those cannot work.

    A proxy comes from the environment, as in httpx, but an address of this machine is always reached directly.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float, patience_s: float) -> None:
        self._key = checked_key(key)
        base = checked_url(url)
        self._proxy = proxy_for(base)
        self._address = f"{base.copy_with(userinfo=b'')}{f' {self._proxy}' if self._proxy else ''}"
        self._patience_s = patience_s
        self._has_answered = False
        self._http = httpx.AsyncClient(
            base_url=base.copy_with(userinfo=b""),  # httpx logs URLs as they are
            auth=httpx.BasicAuth(base.username, base.password) if base.userinfo else None,
            headers={
                "Content-Type": "application/json",
                "Regrade-Timeout-S": f"{_SERVICE_TIMEOUT_SHARE * timeout_s:.3f}",
                **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            },
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            proxy=self._proxy.url if self._proxy else None,
            trust_env=False,
            verify=_tls_context(),
        )

    def retry_budget(self) -> RetryBudget:
        """A budget for one call."""
        return RetryBudget(self._patience_s)

    async def send(
        self,
        method: str,
        path: str,
        body: str | None = None,
        *,
        params: Any = None,
        budget: RetryBudget | None = None,
    ) -> bytes:
        """The body of a successful response. Raises `RegradeError`."""
        budget = budget or self.retry_budget()
        while True:
            retry_after_s = 0.0
            try:
                response = await self._http.request(method, path, content=body, params=params)
            except httpx.RequestError as error:
                problem = self._connection_error(error, budget)
            else:
                self._has_answered = True
                if response.is_success:
                    return response.content
                problem = self._error_of(response)
                retry_after_s = _retry_after_s(response)
            if not isinstance(problem, ServiceUnavailableError) or not await budget.wait(retry_after_s):
                raise problem

    async def get_once(self, path: str) -> bytes:
        """The body of any response, without a retry. Raises `ConfigurationError` or `ServiceUnavailableError`."""
        try:
            return (await self._http.get(path)).content
        except httpx.RequestError as error:
            problem = self._connection_error(error, self.retry_budget())
        raise problem

    def unexpected(self, body: bytes) -> RequestError:
        """The error of a successful response that is not what the service sends."""
        text = body[:200].decode(errors="replace")
        return RequestError("unexpected_response", f"{self._address}: is this the service's URL? It answers: {text}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _connection_error(self, error: httpx.RequestError, budget: RetryBudget) -> RegradeError:
        reason = f"{type(error).__name__} {error}".strip()
        if self._key:
            reason = reason.replace(self._key, "***")
        detail = f"{self._address}: {reason}"
        if advice := _permanent(error):
            return ConfigurationError("unreachable", f"{detail}; {advice}")
        if not self._has_answered and any(
            isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME for cause in _causes(error)
        ):
            budget.limit(_UNKNOWN_NAME_S)
        return ServiceUnavailableError("unreachable", detail)

    def _error_of(self, response: httpx.Response) -> RegradeError:
        status = response.status_code
        try:
            body = response.json()
            code, detail = str(body["error"]), str(body["detail"])
        except (ValueError, KeyError, TypeError):
            code, detail = f"http_{status}", response.text[:300]
            if response.is_redirect:
                detail = f"{self._address} redirects to {masked(response.headers['location'])}: give that URL"
            elif self._proxy:
                detail = f"{detail} ({self._proxy})"
        if status in _RETRIED_STATUS:
            return ServiceUnavailableError(code, detail)
        return _ERRORS.get(status, RequestError)(code, detail)


def checked_key(key: str) -> str:
    """The key without white space around it. Raises `ConfigurationError`, which does not show the key."""
    key = key.strip()
    for position, char in enumerate(key, 1):
        if not "!" <= char <= "~":
            raise ConfigurationError(
                "invalid_key",
                f"character {position} of {len(key)} of the API key (`key` or REGRADE_KEY) cannot be sent in an HTTP "
                "header: give a key of visible ASCII characters",
            )
    return key


def checked_url(text: str) -> httpx.URL:
    """The base URL of a service. Raises `ConfigurationError` unless it has a scheme and a host, and no query."""
    text = text.strip()
    example = f"http://{text}" if text and "/" not in text else "http://127.0.0.1:8700"
    problem = f"{masked(text)!r} is no URL of a service: give scheme and host, such as {masked(example)}"
    try:
        url = httpx.URL(text)
        valid = url.scheme in ("http", "https") and is_host(url.host) and (url.port or 1) < 65_536
        valid = valid and not url.query and not url.fragment
    except (httpx.InvalidURL, ValueError):
        valid = False
    if not valid:
        raise ConfigurationError("invalid_url", problem)
    return url


def _permanent(error: httpx.RequestError) -> str:
    """What to do about an error that every retry would meet, too; empty for one that may pass."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return "the request cannot be sent as configured"
    if isinstance(error, httpx.ProxyError) and str(error).startswith(("401", "403", "407")):
        return "the proxy refuses the connection"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "trust the certificate's authority with SSL_CERT_FILE, or give the name in the certificate"
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _PASSING_TLS_ERRORS):
            return "does the service speak TLS at this port? Without it, its URL begins with http://"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _tls_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise ConfigurationError("certificates", f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error}") from None


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return min(_LONGEST_WAIT_S, max(0.0, float(response.headers.get("Retry-After", 0.0))))
    except ValueError:
        return 0.0
