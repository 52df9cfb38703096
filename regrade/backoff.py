"""How long to wait before a retry. Each layer has its own bounds; the formula is the same."""

import random


def backoff_s(failures: int, *, first_s: float, max_s: float = float("inf")) -> float:
    """Seconds to wait after so many failures in a row (1 or more): `first_s`, doubled each time, `max_s` at most.

    The wait is drawn from the upper half of that, so that clients that failed together do not retry together.
    """
    longest = min(max_s, first_s * 2.0 ** min(failures - 1, 32))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
