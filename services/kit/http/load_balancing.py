"""Which replica of an upstream is asked next, which are out of service, and how many retries are affordable.

A replica leaves service after several failures in a row, for a time that grows with each return to
failure. It comes back by one probe, and stays on probation until a request succeeds. With every
replica out, requests fail at once: an engine that is down is not waited for by each caller in turn.
"""

import base64
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

Clock = Callable[[], float]

_FAILURES = 5
_FIRST_REST_S = 1.0
_LONGEST_REST_S = 60.0
_RETRIES_A_REQUEST = 0.1
_RETRIES_A_SECOND = 1.0
_RETRIES_AT_ONCE = 100.0


class Address(NamedTuple):
    """A base URL without credentials, a name that may be logged, and the header that carries the credentials."""

    url: str
    name: str
    headers: dict[str, str]


def split_urls(text: str, key: str = "") -> tuple[Address, ...]:
    """The addresses in a comma-separated list of base URLs.

    Raises `ValueError`, whose message repeats nothing of the text: it may hold a password.
    """
    found = (_address(part.strip(), position, key) for position, part in enumerate(text.split(","), start=1))
    return tuple({address.url: address for address in found}.values())


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


class Replica:
    """One address, what is under way with it, and how it has fared."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.in_flight = 0
        self.probed = False
        self._failures = 0
        self._ejections = 0
        self._ejected_until: float | None = None

    @property
    def in_service(self) -> bool:
        """Whether it may be asked."""
        return self._ejected_until is None

    def ready_for_probe(self, now: float) -> bool:
        """Whether it has rested, and nobody probes it yet."""
        return self._ejected_until is not None and self._ejected_until <= now and not self.probed

    @contextmanager
    def load(self, weight: int) -> Iterator[None]:
        """Count `weight` as under way."""
        self.in_flight += weight
        try:
            yield
        finally:
            self.in_flight -= weight

    def record_success(self) -> None:
        """A request succeeded: past failures are forgotten, unless it has been taken out since."""
        if self.in_service:
            self._failures = self._ejections = 0

    def reinstate(self) -> None:
        """A probe succeeded: back in service, and out again at the first failure."""
        self._ejected_until = None

    def record_failure(self, now: float) -> bool:
        """A request failed; true if that takes it out of service. Stragglers of an earlier failure change nothing."""
        if not self.in_service:
            return False
        self._failures += 1
        if self._failures < _FAILURES:
            return False
        self.eject(now)
        return True

    def eject(self, now: float) -> None:
        """Out of service, each time longer than the last."""
        self._failures = _FAILURES
        longest = min(_LONGEST_REST_S, _FIRST_REST_S * 2**self._ejections)
        self._ejected_until = now + longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._ejections = min(self._ejections + 1, 16)


class Replicas:
    """The replicas of one upstream."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.all = tuple(Replica(address) for address in addresses)

    @property
    def ejected(self) -> int:
        """How many are out of service."""
        return sum(not replica.in_service for replica in self.all)

    def ready_for_probe(self, now: float) -> Replica | None:
        """One to be probed now, if any is."""
        return next((replica for replica in self.all if replica.ready_for_probe(now)), None)

    def least_loaded(self, tried: Collection[Replica] = ()) -> Replica | None:
        """The one in service with the fewest conversations under way, rather one not yet tried; a draw by lot."""
        serving = [replica for replica in self.all if replica.in_service]
        fresh = [replica for replica in serving if replica not in tried] or serving
        return min(fresh, key=lambda replica: (replica.in_flight, random.random()), default=None)  # noqa: S311 - a lot


class RetryBudget:
    """A tenth of the requests may be retries, and a few beyond that; in an outage they would multiply the load."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._tokens = _RETRIES_AT_ONCE
        self._updated_at = clock()

    def record_request(self) -> None:
        """A request was made."""
        now = self._clock()
        self._tokens += _RETRIES_A_REQUEST + _RETRIES_A_SECOND * (now - self._updated_at)
        self._tokens = min(self._tokens, _RETRIES_AT_ONCE)
        self._updated_at = now

    def try_spend(self) -> bool:
        """Whether a retry is affordable; it is paid for."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
