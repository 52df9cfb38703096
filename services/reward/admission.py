"""How much the judge is asked at once, and who goes first: training, then evaluation, then shadow (I7)."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from regrade.contracts import Purpose
from services.kit.errors import Overloaded

_FIRST = (Purpose.TRAIN, Purpose.EVAL, Purpose.SHADOW)
_RETRY_AFTER_S = 2


class Admission:
    """At most `capacity` conversations with the engine at once, `shadow_capacity` of them for candidates.

    What finds no room waits, most urgent purpose first; when more than `queue` conversations wait,
    further ones are refused instead: a growing queue only makes every answer late.
    """

    def __init__(self, *, capacity: int, shadow_capacity: int, queue: int) -> None:
        self._capacity = capacity
        self._shadow_capacity = min(capacity, shadow_capacity)
        self._queue = queue
        self._busy = 0
        self._shadow_busy = 0
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._waiting_shadow: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._order = count()

    @property
    def waiting(self) -> int:
        """Conversations that wait for room."""
        return sum(weight for _, _, weight, _ in (*self._waiting, *self._waiting_shadow))

    def refuse_if_full(self) -> None:
        """Raises `Overloaded` while the queue is full; asked before anything is done for a request."""
        if self.waiting >= self._queue:
            raise Overloaded(f"{self.waiting} judge calls wait already", retry_after=_RETRY_AFTER_S)

    @asynccontextmanager
    async def room(self, conversations: int, purpose: Purpose) -> AsyncIterator[None]:
        """Wait for room for that many conversations, and hold it. More than there is in all counts as all of it."""
        shadow = purpose is Purpose.SHADOW
        weight = min(conversations, self._shadow_capacity if shadow else self._capacity)
        await self._enter(weight, purpose)
        try:
            yield
        finally:
            self._leave(weight, shadow)

    async def _enter(self, weight: int, purpose: Purpose) -> None:
        shadow = purpose is Purpose.SHADOW
        queue = self._waiting_shadow if shadow else self._waiting
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(queue, (_FIRST.index(purpose), next(self._order), weight, entered))
        self._let_in()
        try:
            await entered
        except asyncio.CancelledError:
            if entered.done() and not entered.cancelled():
                self._leave(weight, shadow)
            raise

    def _let_in(self) -> None:
        while self._waiting and self._admit(self._waiting, self._capacity - self._busy, shadow=False):
            pass
        if self._waiting:
            return
        room = min(self._capacity - self._busy, self._shadow_capacity - self._shadow_busy)
        while self._waiting_shadow and self._admit(self._waiting_shadow, room, shadow=True):
            room = min(self._capacity - self._busy, self._shadow_capacity - self._shadow_busy)

    def _admit(self, queue: list[tuple[int, int, int, asyncio.Future[None]]], room: int, *, shadow: bool) -> bool:
        _, _, weight, entered = queue[0]
        if entered.cancelled():
            heapq.heappop(queue)
            return True
        if weight > room:
            return False
        heapq.heappop(queue)
        self._busy += weight
        self._shadow_busy += weight if shadow else 0
        entered.set_result(None)
        return True

    def _leave(self, weight: int, shadow: bool) -> None:
        self._busy -= weight
        self._shadow_busy -= weight if shadow else 0
        self._let_in()
