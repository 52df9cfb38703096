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


class Gatherer(Generic[K, T, R]):
    """Calls `ask` with up to `size` items of one `key`, at the latest `wait_s` after the first of them came.

    `ask` answers one result an item, in order; what it raises, everybody who waits for that call gets.
    To be used within one event loop.
    """

    def __init__(self, ask: Callable[[K, Sequence[T]], Awaitable[Sequence[R]]], *, size: int, wait_s: float) -> None:
        self._ask = ask
        self._size = size
        self._wait_s = wait_s
        self._boarding: dict[K, list[tuple[Hashable, T, asyncio.Future[R]]]] = {}
        self._seats: dict[tuple[K, Hashable], asyncio.Future[R]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def join(self, key: K, name: Hashable, item: T) -> "asyncio.Future[R]":
        """Where the result of `item` will be. Items of one key and `name` are one item while it is under way.

        Do not cancel it, others may wait for it: wait with `asyncio.wait` or shield it.
        """
        seat = self._seats.get((key, name))
        if seat is not None:
            return seat
        loop = asyncio.get_running_loop()
        seat = self._seats[key, name] = loop.create_future()
        seat.add_done_callback(_looked_at)
        boarding = self._boarding.get(key)
        if boarding is None:
            boarding = self._boarding[key] = []
            loop.call_later(self._wait_s, self._depart, key, boarding)
        boarding.append((name, item, seat))
        if len(boarding) >= self._size:
            self._depart(key, boarding)
        return seat

    async def aclose(self) -> None:
        """Drop the calls under way; who waits is told so by a cancelled future."""
        self._boarding.clear()
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        for seat in self._seats.values():
            seat.cancel()
        self._seats.clear()

    def _depart(self, key: K, boarded: list[tuple[Hashable, T, asyncio.Future[R]]]) -> None:
        if self._boarding.get(key) is not boarded:
            return  # it was full, and has left
        del self._boarding[key]
        call = asyncio.get_running_loop().create_task(self._call(key, boarded))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, key: K, boarded: Sequence[tuple[Hashable, T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._ask(key, [item for _, item, _ in boarded])
        except Exception as error:
            for _, _, seat in boarded:
                seat.set_exception(error)
        else:
            for (_, _, seat), result in zip(boarded, results, strict=True):
                seat.set_result(result)
        finally:
            for name, _, seat in boarded:
                del self._seats[key, name]
                seat.cancel()  # does nothing to one that is done


def _looked_at(seat: "asyncio.Future[R]") -> None:
    """An error that nobody waited for any more is no fault to complain of."""
    if not seat.cancelled():
        seat.exception()
