"""How a request to an upstream fails.

UpstreamError
├── UpstreamUnavailable     no answer: refused connections, timeouts, 5xx
│   ├── UpstreamBusy        it takes no more requests at present: 429, 408
│   ├── UpstreamDisconnected  an open connection was lost before the answer
│   └── UpstreamDenied      it refuses every request, until somebody changes its key, credit, URL, model or parameters
├── UpstreamRefused         it refuses this request, and answers others
└── UpstreamMalformed       a response that does not follow the protocol
"""


class UpstreamError(Exception):
    """The upstream gave no usable answer."""

    retryable = True


class UpstreamUnavailable(UpstreamError):
    """No answer within the retries. `retry_after_s` is how long the upstream wants to be left alone, if it says so."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamBusy(UpstreamUnavailable):
    """The upstream is up and takes no more requests at present: 429, 408."""


class UpstreamDisconnected(UpstreamUnavailable):
    """An open connection was lost before the answer: by a restart, or because it had been idle for too long."""


class UpstreamDenied(UpstreamUnavailable):
    """The upstream refuses every request, with `status` where it does so by HTTP: its operator has to act."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UpstreamRefused(UpstreamError):
    """The request itself was refused, with `status` where it was by HTTP; a retry would be refused, too."""

    retryable = False

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UpstreamMalformed(UpstreamError):
    """A response that does not follow the protocol."""
