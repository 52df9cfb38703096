"""Back-off: a line whose cycle failed is left alone for a while that grows, since every try costs meta-judge calls."""

import random

from services.meta_reward.stores.status import CycleRequest

_FIRST_S = 1.0
_LONGEST_S = 300.0


class Backoff:
    """One line's failures in a row. Times are those of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0
        self._request: CycleRequest | None = None

    def failed(self, now: float, request: CycleRequest | None = None) -> None:
        """Wait a second from `now`, twice as long each time, five minutes at most; a jitter halves it at most.

        `request` is what the failed try was to serve.
        """
        self._request = request
        longest = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._failures, 32))
        self._until = now + longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._failures += 1

    def succeeded(self) -> None:
        """Start from the beginning."""
        self._failures = 0
        self._until = 0.0

    def is_over(self, now: float, request: CycleRequest | None = None) -> bool:
        """Whether the next try is due: in time, or by a request that no try has failed to serve."""
        return now >= self._until or request not in (None, self._request)
