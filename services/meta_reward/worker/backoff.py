"""Backoff of a lineage whose cycle failed: every try costs meta-judge calls, so the waits grow."""

from regrade.backoff import backoff_s
from services.meta_reward.stores.status import CycleRequest

_FIRST_S = 1.0
_MAX_S = 300.0


class Backoff:
    """One lineage's failures in a row. Times are those of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0
        self._request: CycleRequest | None = None

    def failed(self, now: float, request: CycleRequest | None = None) -> None:
        """Wait about a second from `now`, twice as long each time. `request` is what the failed try served."""
        self._request = request
        self._failures += 1
        self._until = now + backoff_s(self._failures, first_s=_FIRST_S, max_s=_MAX_S)

    def succeeded(self) -> None:
        """Reset: the next failure waits a second again."""
        self._failures = 0
        self._until = 0.0

    def is_over(self, now: float, request: CycleRequest | None = None) -> bool:
        """Whether the next try is due: its time has come, or there is a request that no failed try served."""
        return now >= self._until or request not in (None, self._request)
