"""Collects single items into batches. Used by the adapters' client and by the reward service.

Trainers that send one sample at a time would otherwise cost the judge a request and the service a round trip to Redis
for each. An item that is submitted again while it is in flight joins the first: a retry costs nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[K, T, R]):
    """Calls `run_batch` with up to `size` items of one key, at the latest `wait_s` after the first was submitted.

    `run_batch` returns one result an item, in order; an exception of it reaches every item of the batch. For use
    within one event loop.
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
        """The future of the item's result. Items of one key and `name` share it while they are in flight.

        Do not cancel it, since others may wait for it: use `asyncio.wait`, or shield it.
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
        """Cancel everything in flight; those who wait get `CancelledError`."""
        self._pending.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for future in self._futures.values():
            future.cancel()
        self._futures.clear()

    def _flush(self, key: K, batch: list[tuple[Hashable, T, asyncio.Future[R]]]) -> None:
        if self._pending.get(key) is not batch:
            return  # already flushed, since it was full before `wait_s` had passed
        del self._pending[key]
        task = asyncio.get_running_loop().create_task(self._run(key, batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, key: K, batch: Sequence[tuple[Hashable, T, asyncio.Future[R]]]) -> None:
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
                future.cancel()  # no effect on a future that is done


def _retrieve_exception(future: "asyncio.Future[R]") -> None:
    """Keep asyncio from logging an exception that nobody waits for any more."""
    if not future.cancelled():
        future.exception()
