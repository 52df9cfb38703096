"""An event loop in a daemon thread, so that code without an event loop, or with several, can share one async client."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class LoopThread:
    """Runs coroutine functions in the thread's loop, from any thread.

    `anyio.from_thread` would do the same, but its `start_task_soon` blocks the caller until the loop is free (17 ms
    behind a 20 ms callback, 0.04 ms here), which would stall a trainer's own event loop.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **options: P.kwargs) -> "Future[T]":
        """Start `function` in the loop. Raises `RuntimeError` after `close`."""
        if self._loop.is_closed():
            raise RuntimeError("the client is closed")
        return asyncio.run_coroutine_threadsafe(function(*args, **options), self._loop)

    def close(self, cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `cleanup` in the loop, then end loop and thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        self.submit(cleanup).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
