"""Admission control of engine calls: a bounded number in flight, by priority (I7): train, then eval, then shadow."""

import asyncio
import heapq
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NamedTuple

from regrade.contracts import Purpose
from services.kit.errors import Overloaded

_PRIORITY = (Purpose.TRAIN, Purpose.EVAL, Purpose.SHADOW)
_RETRY_AFTER_S = 2


class _Waiter(NamedTuple):
    """A request that waits; ordered by priority, then by arrival."""

    priority: int
    arrival: int
    weight: int
    admitted: asyncio.Future[None]


class Admission:
    """At most `capacity` conversations in flight with the engine, `shadow_capacity` of them for candidates.

    Further ones wait by priority. While more than `queue` conversations wait, new requests are refused, since a longer
    queue only delays every answer.

    An engine cannot drop what it has started, so candidates yield by not starting. While training or evaluation is in
    flight, and for `quiet_s` after it, candidates get `shadow_share` conversations for each of theirs. After a longer
    pause, such as a policy update, they get all of `shadow_capacity`.
    """

    def __init__(
        self, *, capacity: int, shadow_capacity: int, queue: int, shadow_share: float = 0.02, quiet_s: float = 0.5
    ) -> None:
        self._capacity = capacity
        self.shadow_capacity = min(capacity, shadow_capacity)
        self._queue = queue
        self._shadow_share = shadow_share
        self._quiet_s = quiet_s
        self._shadow_credit = 0.0
        self._last_urgent = -math.inf
        self._wake: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._shadow_in_flight = 0
        self._waiting: list[_Waiter] = []
        self._waiting_shadow: list[_Waiter] = []
        self._arrivals = count()

    @property
    def waiting(self) -> int:
        """Conversations that wait for admission."""
        return sum(waiter.weight for waiter in (*self._waiting, *self._waiting_shadow))

    def refuse_if_full(self) -> None:
        """Raises `Overloaded` while the queue is full; called before any other work on a request."""
        if self.waiting >= self._queue:
            raise Overloaded(f"{self.waiting} judge calls wait already", retry_after=_RETRY_AFTER_S)

    @asynccontextmanager
    async def hold(self, conversations: int, purpose: Purpose) -> AsyncIterator[None]:
        """Wait until that many conversations are admitted, and hold them. More than the capacity count as all of it."""
        shadow = purpose is Purpose.SHADOW
        weight = min(conversations, self.shadow_capacity if shadow else self._capacity)
        await self._acquire(weight, purpose)
        try:
            yield
        finally:
            self._release(weight, shadow)

    async def _acquire(self, weight: int, purpose: Purpose) -> None:
        shadow = purpose is Purpose.SHADOW
        queue = self._waiting_shadow if shadow else self._waiting
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(queue, _Waiter(_PRIORITY.index(purpose), next(self._arrivals), weight, admitted))
        self._admit_waiting()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():  # cancelled after it was admitted
                self._release(weight, shadow)
            raise

    def _release(self, weight: int, shadow: bool) -> None:
        self._in_flight -= weight
        if shadow:
            self._shadow_in_flight -= weight
        else:
            self._last_urgent = asyncio.get_running_loop().time()
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._waiting and self._admit_first(self._waiting, self._capacity - self._in_flight, shadow=False):
            pass
        while (
            self._waiting_shadow
            and not self._waiting
            and self._admit_first(self._waiting_shadow, self._free_for_shadow(), shadow=True)
        ):
            pass
        quiet_at = self._last_urgent + self._quiet_s
        loop = asyncio.get_running_loop()
        urgent = self._in_flight > self._shadow_in_flight
        if self._waiting_shadow and self._wake is None and not urgent and quiet_at > loop.time():
            self._wake = loop.call_at(quiet_at, self._on_quiet)

    def _on_quiet(self) -> None:
        self._wake = None
        self._admit_waiting()

    def _free_for_shadow(self) -> int:
        free = min(self._capacity - self._in_flight, self.shadow_capacity - self._shadow_in_flight)
        return free if self._is_quiet() else min(free, int(self._shadow_credit))

    def _is_quiet(self) -> bool:
        """Whether nothing urgent is in flight, or was until `quiet_s` ago: a trainer's next batch follows at once."""
        if self._in_flight > self._shadow_in_flight:
            return False
        return asyncio.get_running_loop().time() >= self._last_urgent + self._quiet_s

    def _admit_first(self, queue: list[_Waiter], free: int, *, shadow: bool) -> bool:
        """Admit or discard the queue's first waiter; False if it does not fit: a smaller one does not overtake it."""
        waiter = queue[0]
        if waiter.admitted.cancelled():
            heapq.heappop(queue)
            return True
        if waiter.weight > free:
            return False
        heapq.heappop(queue)
        if shadow:
            self._shadow_credit = max(0.0, self._shadow_credit - waiter.weight)
            self._shadow_in_flight += waiter.weight
        else:
            credit = self._shadow_credit + self._shadow_share * waiter.weight
            self._shadow_credit = min(float(self.shadow_capacity), credit)
        self._in_flight += waiter.weight
        waiter.admitted.set_result(None)
        return True
