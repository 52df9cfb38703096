"""Makes one call of many: callers with a sample each wait a moment for one another. For both ends of the wire.

Trainers that ask for one sample at a time would else cost the judge a request a sample, and the service
a round trip to Redis. Concurrent equals join: a retry that comes while its first try is under way waits for that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[K, T, R]):
    """Calls `ask` with up to `size` items of one `key`, at the latest `wait_s` after the first of them came.

    `ask` answers one result an item, in order; what it raises, everybody who waits for that call gets.
    To be used within one event loop.
    """

    def __init__(
        self, run_batch: Callable[[K, Sequence[T]], Awaitable[Sequence[R]]], *, size: int, wait_s: float
    ) -> None:
        self._run_batch = run_batch
        self._size = size
        self._wait_s = wait_s
        self._pending: dict[K, list[tuple[Hashable, T, asyncio.Future[R]]]] = {}
        self._futures: dict[tuple[K, Hashable], asyncio.Future[R]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, key: K, name: Hashable, item: T) -> "asyncio.Future[R]":
        """Where the result of `item` will be. Items of one key and `name` are one item while it is under way.

        Do not cancel it, others may wait for it: wait with `asyncio.wait` or shield it.
        """
        future = self._futures.get((key, name))
        if future is not None:
            return future
        loop = asyncio.get_running_loop()
        future = self._futures[key, name] = loop.create_future()
        future.add_done_callback(_retrieve_exception)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = []
            loop.call_later(self._wait_s, self._flush, key, pending)
        pending.append((name, item, future))
        if len(pending) >= self._size:
            self._flush(key, pending)
        return future

    async def aclose(self) -> None:
        """Drop the calls under way; who waits is told so by a cancelled future."""
        self._pending.clear()
        for call in list(self._tasks):
            call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for future in self._futures.values():
            future.cancel()
        self._futures.clear()

    def _flush(self, key: K, batch: list[tuple[Hashable, T, asyncio.Future[R]]]) -> None:
        if self._pending.get(key) is not batch:
            return  # it was full, and has left
        del self._pending[key]
        call = asyncio.get_running_loop().create_task(self._call(key, batch))
        self._tasks.add(call)
        call.add_done_callback(self._tasks.discard)

    async def _call(self, key: K, batch: Sequence[tuple[Hashable, T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run_batch(key, [item for _, item, _ in batch])
        except Exception as error:
            for _, _, future in batch:
                future.set_exception(error)
        else:
            for (_, _, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        finally:
            for name, _, future in batch:
                del self._futures[key, name]
                future.cancel()  # does nothing to one that is done


def _retrieve_exception(future: "asyncio.Future[R]") -> None:
    """An error that nobody waited for any more is no fault to complain of."""
    if not future.cancelled():
        future.exception()
