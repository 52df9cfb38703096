"""Outgoing JSON over HTTP: one session, explicit time-outs, and the only retries, with jitter and a budget."""

import asyncio
import json
import random
from typing import Any

import aiohttp
from pydantic import SecretStr

_MAX_ANSWER_BYTES = 16_000_000
_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class UpstreamError(Exception):
    """The other side gave no usable answer."""

    retryable = True


class UpstreamUnavailable(UpstreamError):
    """No answer within the retry budget: refused connections, time-outs, 5xx, 429."""


class UpstreamRefused(UpstreamError):
    """The request itself was refused; asking again brings the same."""

    retryable = False


class UpstreamMalformed(UpstreamError):
    """An answer that is not what the protocol promises."""


def open_session(*, connections: int, timeout_s: float) -> aiohttp.ClientSession:
    """The process's HTTP session: `connections` at most at once, `timeout_s` for a whole call."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=60.0),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=5.0),
    )


class JsonEndpoint:
    """A base URL that answers JSON. A failed call is tried `retries` times more, `backoff_s` apart and doubling."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        key: SecretStr | None = None,
        retries: int = 2,
        backoff_s: float = 0.2,
    ) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key is not None and key.get_secret_value():
            self._headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._retries = retries
        self._backoff_s = backoff_s

    async def get(self, path: str) -> Any:
        """One GET. Raises `UpstreamError`."""
        return await self._with_retries("GET", path, None)

    async def post(self, path: str, payload: Any) -> Any:
        """One POST. Raises `UpstreamError`."""
        return await self._with_retries("POST", path, json.dumps(payload).encode())

    async def _with_retries(self, method: str, path: str, body: bytes | None) -> Any:
        for attempt in range(self._retries + 1):
            try:
                return await self._once(method, path, body)
            except UpstreamUnavailable:
                if attempt == self._retries:
                    raise
                await asyncio.sleep(self._backoff_s * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    async def _once(self, method: str, path: str, body: bytes | None) -> Any:
        try:
            async with self._session.request(
                method, self._base_url + path, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                answer = await _bounded_body(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UpstreamUnavailable(f"{type(error).__name__} at {path}") from error
        if response.status in _RETRIED_STATUS:
            raise UpstreamUnavailable(f"HTTP {response.status} at {path}")
        if response.status >= 300:
            raise UpstreamRefused(f"HTTP {response.status} at {path}: {answer[:300].decode(errors='replace')}")
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise UpstreamMalformed(f"no JSON at {path}") from error


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes:
    chunks = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        chunks += chunk
        if len(chunks) > _MAX_ANSWER_BYTES:
            raise UpstreamMalformed(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
    return bytes(chunks)
