"""How much the judge is asked at once, and who goes first: training, then evaluation, then shadow (I7)."""

import asyncio
import heapq
import math
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

    An engine cannot be made to drop what it has begun, so yielding means not to begin. While training (or evaluation)
    goes on, and for `quiet_s` behind it, candidates get `shadow_share` of its conversations, no more; where it has
    been quiet for longer, as while a policy is updated, they get all of their room.
    """

    def __init__(
        self, *, capacity: int, shadow_capacity: int, queue: int, shadow_share: float = 0.02, quiet_s: float = 0.5
    ) -> None:
        self._capacity = capacity
        self.shadow_capacity = min(capacity, shadow_capacity)
        self._queue = queue
        self._share = shadow_share
        self._quiet_s = quiet_s
        self._earned = 0.0
        self._last_urgent = -math.inf
        self._wake: asyncio.TimerHandle | None = None
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
        weight = min(conversations, self.shadow_capacity if shadow else self._capacity)
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
        while (
            self._waiting_shadow
            and not self._waiting
            and self._admit(self._waiting_shadow, self._shadow_room(), shadow=True)
        ):
            pass
        quiet_at = self._last_urgent + self._quiet_s
        loop = asyncio.get_running_loop()
        if self._waiting_shadow and self._wake is None and self._busy == self._shadow_busy and quiet_at > loop.time():
            self._wake = loop.call_at(quiet_at, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._let_in()

    def _shadow_room(self) -> int:
        room = min(self._capacity - self._busy, self.shadow_capacity - self._shadow_busy)
        return room if self._is_quiet() else min(room, int(self._earned))

    def _is_quiet(self) -> bool:
        """Whether nothing urgent is under way, or was a moment ago: the next batch of a trainer comes right behind."""
        if self._busy > self._shadow_busy:
            return False
        return asyncio.get_running_loop().time() >= self._last_urgent + self._quiet_s

    def _admit(self, queue: list[tuple[int, int, int, asyncio.Future[None]]], room: int, *, shadow: bool) -> bool:
        _, _, weight, entered = queue[0]
        if entered.cancelled():
            heapq.heappop(queue)
            return True
        if weight > room:
            return False
        heapq.heappop(queue)
        if shadow:
            self._earned = max(0.0, self._earned - weight)
            self._shadow_busy += weight
        else:
            self._earned = min(float(self.shadow_capacity), self._earned + self._share * weight)
        self._busy += weight
        entered.set_result(None)
        return True

    def _leave(self, weight: int, shadow: bool) -> None:
        self._busy -= weight
        self._shadow_busy -= weight if shadow else 0
        if not shadow:
            self._last_urgent = asyncio.get_running_loop().time()
        self._let_in()
