"""What the client raises.

RegradeError
├── RequestError        the service refused the request (4xx): mend the call, asking again brings the same
│   ├── PinConflictError    409: the run's step is pinned to another rubric
│   └── AccessError         401, 403: key missing, unknown, or without the right
└── ServiceUnavailableError  no answer within the retry budget: network, 429, 5xx
"""


class RegradeError(Exception):
    """Base of all errors of the client. `code` is the service's error code, or "unreachable"."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class RequestError(RegradeError):
    """The service refused the request."""


class PinConflictError(RequestError):
    """Another rubric is pinned, or another activation came first."""


class AccessError(RequestError):
    """The key is missing, unknown, or may not do this."""


class ServiceUnavailableError(RegradeError):
    """The service, or the judge behind it, is away; the same call may succeed later."""
