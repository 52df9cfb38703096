"""Waiting for a condition: polled, bounded, and never longer than it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

_POLL_S = 0.02


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 90.0) -> None:
    """Return once `condition` holds. Raises `TimeoutError` naming `what` was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(_POLL_S)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, *, timeout_s: float = 90.0) -> None:
    """`wait_until` for a test with an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        await asyncio.sleep(_POLL_S)
