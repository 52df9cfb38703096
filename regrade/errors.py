"""Exceptions of the client.

RegradeError
├── ConfigurationError      the URL, key, proxy or certificate cannot work; a retry gives the same error
├── RequestError            the service refused the request (4xx); a retry gives the same answer
│   ├── PinConflictError    409: another rubric is pinned or active
│   ├── AccessError         401, 403: key missing, unknown, or without the right
│   └── TooLargeError       413: the body is larger than the service, or a proxy before it, accepts
└── ServiceUnavailableError no result within the client's patience: network error, 429, 5xx
"""


class RegradeError(Exception):
    """Base of the client's exceptions; `code` is the service's error code, "unreachable" or "timeout"."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)  # both, since a pickled exception is made again from its arguments
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class ConfigurationError(RegradeError, ValueError):
    """The client cannot work as configured: its URL, its key, a proxy, or a certificate."""


class RequestError(RegradeError):
    """The service refused the request."""


class PinConflictError(RequestError):
    """Another rubric is pinned to the step, or another activation came first."""


class AccessError(RequestError):
    """The key is missing, unknown, or lacks the right to do this."""


class TooLargeError(RequestError):
    """The request's body is too large; `RewardClient.score` sends its items in smaller requests instead."""


class ServiceUnavailableError(RegradeError):
    """The service or its judge is unavailable; the same call may succeed later."""
