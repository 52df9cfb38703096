"""What an answer that is an error means: by its HTTP status, or by the code of an error inside a 200. Pure."""

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import msgspec

from services.kit.http.errors import (
    UpstreamBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)

_BUSY = frozenset({408, 429})
_ABOUT_THE_REQUEST = frozenset({400, 403, 413, 422, 451})
"""May be about one request: too long a text, a content policy. All other 4xx are about the caller or the URL."""

_DENIALS = {
    401: "refuses the key",
    402: "has no credit for this key",
    403: "does not permit this key to do that",
    404: "knows no such route or model",
    405: "does not have this route",
    407: "is behind a proxy that refuses us",
    410: "no longer serves this model or route",
}
_MAX_RETRY_AFTER_S = 3_600.0
_MAX_DETAIL = 300
_MAX_READ = 20_000

_STATUS_BY_NAME = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "insufficient_quota": 402,
    "billing_not_active": 402,
    "payment_required": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "forbidden": 403,
    "not_found": 404,
    "not_found_error": 404,
    "model_not_found": 404,
    "notfounderror": 404,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "server_error": 500,
    "api_error": 500,
    "internal": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "overloaded_error": 503,
    "unavailable": 503,
    "service_unavailable": 503,
    "timeout": 504,
    "deadline_exceeded": 504,
}


class Source(NamedTuple):
    """Who answered: what it is to us ("the judge"), and the URL with the proxy on the way, without credentials."""

    name: str
    place: str


class ErrorInside(ValueError):
    """Raised by who parses an answer in which an error object stands for the content."""

    def __init__(self, error: Any) -> None:
        super().__init__("an error in place of an answer")
        self.error = error


class _Envelope(msgspec.Struct):
    error: Any = None
    object: Any = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def error_of_status(status: int, detail: str, source: Source, retry_after_s: float | None = None) -> UpstreamError:
    """The error that an HTTP status of 300 or above stands for; `detail` is the upstream's own text."""
    text = f"HTTP {status} at {source.place}: {detail}" if detail else f"HTTP {status} at {source.place}"
    if status in _BUSY:
        return UpstreamBusy(text, retry_after_s)
    if status >= 500:
        return UpstreamUnavailable(text, retry_after_s)
    if status in _ABOUT_THE_REQUEST:
        return UpstreamRefused(text, status)
    return UpstreamDenied(f"{source.name} {denial_reason(status)}: {text}", status)


def denial_reason(status: int | None) -> str:
    """What a status says of every request, as the predicate of a sentence about the upstream."""
    redirected = status is not None and 300 <= status < 400
    return _DENIALS.get(status or 0, "redirects to another URL" if redirected else "refuses every request")


def embedded_error(body: bytes) -> Any:
    """The error object in a body with the status 200, as some gateways send it; None for a body that is no error."""
    if b'"error"' not in body:
        return None
    try:
        envelope = _ENVELOPE.decode(body)
        is_error = envelope.object == "error"
        return envelope.error or (msgspec.json.decode(body) if is_error else None)
    except (ValueError, RecursionError):
        return None


def error_of_object(error: Any, detail: str, source: Source, retry_after_s: float | None = None) -> UpstreamError:
    """The error that an error object in JSON stands for: that of the HTTP status which it names."""
    status = _status_in(error)
    if status is None:
        return UpstreamMalformed(f"an error in place of an answer at {source.place}: {detail}")
    return error_of_status(status, detail, source, retry_after_s)


def _status_in(error: Any) -> int | None:
    """The HTTP status that an error object names by number or by word."""
    if not isinstance(error, Mapping):
        return None
    values = [error.get(field) for field in ("code", "status", "status_code", "type")]
    return next((status for status in map(_status, values) if status is not None), None)


def _status(value: object) -> int | None:
    if isinstance(value, str):
        name = value.strip().lower()
        value = int(name) if name.isascii() and name.isdigit() and len(name) == 3 else _STATUS_BY_NAME.get(name)
    is_status = isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600
    return value if is_status and isinstance(value, int) else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `Retry-After` (seconds or a date) or `retry-after-ms`, one hour at most; None without."""
    seconds = _number(headers.get("retry-after-ms", ""))
    if seconds is not None:
        seconds /= 1_000.0
    else:
        text = headers.get("Retry-After", "")
        seconds = _number(text)
        if seconds is None:
            seconds = _seconds_until(text)
    return min(seconds, _MAX_RETRY_AFTER_S) if seconds is not None and seconds > 0.0 else None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds_until(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def readable(body: bytes) -> str:
    """The beginning of a body as text, long enough for `shortened` after secrets are masked in it."""
    return body[:_MAX_READ].decode(errors="replace")


def shortened(text: str) -> str:
    """A text as it stands in errors and logs: on one line, a few hundred characters."""
    return " ".join(text[: 2 * _MAX_DETAIL].split())[:_MAX_DETAIL]
