"""Load balancing over the endpoints of an upstream: least loaded first, ejection after failures, a retry budget.

An endpoint is ejected after several failures in a row, each time for longer. One successful probe puts it back in
service; its next failure ejects it again until a request has succeeded. With every endpoint ejected, requests fail at
once, so that callers do not wait for an engine that is down.
"""

import base64
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from regrade.backoff import backoff_s

Clock = Callable[[], float]

_FAILURES = 5
"""Failures in a row that eject an endpoint: single lost connections do not."""

_FIRST_EJECTION_S = 1.0
_MAX_EJECTION_S = 60.0

_RETRIES_A_REQUEST = 0.1
"""In an outage, retries add at most a tenth to the load."""

_RETRIES_A_SECOND = 1.0
_MAX_RETRIES_SAVED = 100.0


class Address(NamedTuple):
    """A base URL without credentials, a name that may be logged, and the header that carries the credentials."""

    url: str
    name: str
    headers: dict[str, str]


def split_urls(text: str, key: str = "") -> tuple[Address, ...]:
    """The addresses in a comma-separated list of base URLs.

    Raises `ValueError`, whose message does not repeat the text: it may hold a password.
    """
    addresses = (_address(part.strip(), position, key) for position, part in enumerate(text.split(","), start=1))
    return tuple({address.url: address for address in addresses}.values())


def _address(text: str, position: int, key: str) -> Address:
    wrong = ValueError(f"base URL {position} is not http(s)://[user:password@]host[:port][/path]")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise wrong
    host = parts.netloc.rpartition("@")[2]
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    elif key:
        headers["Authorization"] = f"Bearer {key}"
    name = parts.hostname if port is None else f"{parts.hostname}:{port}"
    return Address(f"{parts.scheme}://{host}{parts.path.rstrip('/')}", name, headers)


class Endpoint:
    """One address, its requests in flight, and its state of service."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.in_flight = 0
        self.probed = False
        self._failures = 0
        self._ejections = 0
        self._ejected_until: float | None = None

    @property
    def in_service(self) -> bool:
        """Whether it is not ejected."""
        return self._ejected_until is None

    def ready_for_probe(self, now: float) -> bool:
        """Whether its ejection is over and no probe of it is in flight."""
        return self._ejected_until is not None and self._ejected_until <= now and not self.probed

    @contextmanager
    def load(self, weight: int) -> Iterator[None]:
        """Count `weight` requests as in flight."""
        self.in_flight += weight
        try:
            yield
        finally:
            self.in_flight -= weight

    def record_success(self) -> None:
        """A request succeeded: the count of failures starts again, unless the endpoint was ejected since."""
        if self.in_service:
            self._failures = self._ejections = 0

    def reinstate(self) -> None:
        """A probe succeeded: back in service, to be ejected again at the first failure."""
        self._ejected_until = None

    def record_failure(self, now: float) -> bool:
        """A request failed; true if that ejects the endpoint. Once ejected, later failures are ignored."""
        if not self.in_service:
            return False
        self._failures += 1
        if self._failures < _FAILURES:
            return False
        self.eject(now)
        return True

    def eject(self, now: float) -> None:
        """Take it out of service, each time for longer."""
        self._failures = _FAILURES
        self._ejections += 1
        self._ejected_until = now + backoff_s(self._ejections, first_s=_FIRST_EJECTION_S, max_s=_MAX_EJECTION_S)


class Endpoints:
    """The endpoints of one upstream."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.all = tuple(Endpoint(address) for address in addresses)

    @property
    def ejected(self) -> int:
        """How many are ejected."""
        return sum(not endpoint.in_service for endpoint in self.all)

    def ready_for_probe(self, now: float) -> Endpoint | None:
        """An endpoint whose probe is due, or None."""
        return next((endpoint for endpoint in self.all if endpoint.ready_for_probe(now)), None)

    def least_loaded(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint in service with the least load, if possible one not yet tried; ties are broken at random."""
        serving = [endpoint for endpoint in self.all if endpoint.in_service]
        fresh = [endpoint for endpoint in serving if endpoint not in tried] or serving
        return min(fresh, key=lambda endpoint: (endpoint.in_flight, random.random()), default=None)  # noqa: S311 - no secret


class RetryBudget:
    """Token bucket of retries, so that an outage does not multiply the load."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._tokens = _MAX_RETRIES_SAVED
        self._updated_at = clock()

    def record_request(self) -> None:
        """Add the share of a retry that a request permits."""
        now = self._clock()
        self._tokens += _RETRIES_A_REQUEST + _RETRIES_A_SECOND * (now - self._updated_at)
        self._tokens = min(self._tokens, _MAX_RETRIES_SAVED)
        self._updated_at = now

    def try_spend(self) -> bool:
        """Take a retry from the budget; false if it is empty."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
