"""Load balancing over the endpoints of an upstream: least loaded first, ejection after failures, a retry budget.

An endpoint is ejected after several failures in a row, each time for longer. One successful probe puts it back in
service; its next failure ejects it again until a request has succeeded. With every endpoint ejected, requests fail at
once, so that callers do not wait for an engine that is down.
"""

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from regrade.backoff import backoff_s
from services.kit.http.addresses import Address
from services.kit.http.errors import UpstreamError
from services.kit.http.proxies import proxy_of

Clock = Callable[[], float]

_FAILURES = 5
"""Failures in a row that eject an endpoint: single lost connections do not."""

_FIRST_EJECTION_S = 1.0
_MAX_EJECTION_S = 60.0

_RETRIES_A_REQUEST = 0.1
"""In an outage, retries add at most a tenth to the load."""

_RETRIES_A_SECOND = 1.0
_MAX_RETRIES_SAVED = 100.0


class Endpoint:
    """One address, its requests in flight, and its state of service."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.proxy = proxy_of(address.api)
        self.in_flight = 0
        self.probed = False
        self.paused_until = 0.0
        """The upstream asked for no request before this time."""
        self.last_error: UpstreamError | None = None
        self._failures = 0
        self._last_disconnect = 0.0
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
        self.last_error = None
        if self.in_service:
            self._failures = self._ejections = 0

    def pause(self, until: float) -> None:
        """Send nothing before `until`."""
        self.paused_until = max(self.paused_until, until)

    def is_known_disconnect(self, now: float, started: float) -> bool:
        """Whether a lost connection is part of one already counted: its request began before that one was lost.

        A server that restarts, or closes idle connections, resets all of them at once.
        """
        if started < self._last_disconnect:
            return True
        self._last_disconnect = now
        return False

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

    def least_loaded(self, tried: Collection[Endpoint] = (), now: float = 0.0) -> Endpoint | None:
        """The endpoint in service with the least load; ties are broken at random.

        If possible one that has not asked for a pause, and of those one not yet tried.
        """
        serving = [endpoint for endpoint in self.all if endpoint.in_service]
        willing = [endpoint for endpoint in serving if endpoint.paused_until <= now] or serving
        fresh = [endpoint for endpoint in willing if endpoint not in tried] or willing
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
