"""What a replica remembers of pins and active rubrics, so that it can go on while Redis is away.

Nothing here outlives the process or is newer than Redis: it is told by Redis, the activation channel and a poll.
"""

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from redis.exceptions import RedisError

from regrade.contracts import Rubric
from services.kit.errors import NotFound
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, RubricStore
from services.kit.store.trace_log import PinRequest
from services.reward.metrics import RewardMetrics
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable

log = logging.getLogger(__name__)

_PINS = 65_536
_LINES = 1_024
_NAMES = 4_096
_RECONNECT_S = 1.0

K = TypeVar("K")
V = TypeVar("V")


class _Newest(OrderedDict[K, V], Generic[K, V]):
    """A mapping of the `bound` entries written last."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self._bound = bound

    def keep(self, key: K, value: V) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._bound:
            self.popitem(last=False)


class _Told(NamedTuple):
    active: RubricPointer
    until: float


class PinCache:
    """Pins that Redis told of, and pins made up while it was away. Those stay until Redis has been asked to take them.

    A made-up pin is a `PinRequest` whose `wanted` is what it holds: that is what Redis is asked.
    """

    def __init__(self) -> None:
        self._told: _Newest[str, _Told] = _Newest(_PINS)
        self._provisional: _Newest[str, PinRequest] = _Newest(_PINS)

    def get(self, key: str) -> RubricPointer | None:
        """What Redis said the pin holds, for as long as Redis keeps it."""
        found = self._told.get(key)
        return found.active if found is not None and found.until > time.monotonic() else None

    def set(self, key: str, active: RubricPointer, ttl_s: int) -> None:
        """Redis says that the pin holds `active`."""
        self._told.keep(key, _Told(active, time.monotonic() + ttl_s))
        self._provisional.pop(key, None)

    def choose_provisional(self, key: str, lineage: LineageKey, active: RubricPointer, ttl_s: int) -> RubricPointer:
        """What the pin holds by this replica's own choice: `active`, unless it chose before."""
        if key not in self._provisional:
            self._provisional.keep(key, PinRequest(key, lineage, active, ttl_s, ()))
        return self._provisional[key].wanted or active

    def provisional(self, count: int) -> list[PinRequest]:
        """Up to `count` of the pins made up, oldest first."""
        return [pin for pin, _ in zip(self._provisional.values(), range(count), strict=False)]


class ActiveRubricCache:
    """The active rubric of each line this replica has met, and the versions it has met, with their content."""

    def __init__(self, store: RubricStore, circuit: CircuitBreaker, metrics: RewardMetrics) -> None:
        self._store = store
        self._circuit = circuit
        self._metrics = metrics
        self._active: _Newest[LineageKey, RubricPointer] = _Newest(_LINES)
        self._named: _Newest[tuple[LineageKey, int | str], RubricPointer] = _Newest(_NAMES)

    @property
    def any(self) -> bool:
        """Whether there is a line that could be served without Redis."""
        return bool(self._active)

    def last(self, lineage: LineageKey) -> RubricPointer | None:
        """The rubric last known to be active in the narrowest line that has one."""
        return next((self._active[wider] for wider in lineage.fallbacks() if wider in self._active), None)

    def observe(self, lineage: LineageKey, active: RubricPointer) -> None:
        """A pin of `line` holds `active`: it was active once, and is taken to be so still where nothing is known."""
        lineage = lineage._replace(scope=active.scope)
        self._remember(lineage, active)
        if lineage not in self._active:
            self._active.keep(lineage, active)

    async def rubric(self, task: str, digest: str) -> Rubric:
        """A rubric's content. Raises `NotFound`, `RedisUnavailable`."""
        cached = self._store.cached(task, digest)
        if cached is not None:
            return cached
        return await self._circuit.call(lambda: self._store.get(task, digest))

    async def find(self, lineage: LineageKey, name: int | str) -> RubricPointer:
        """A rubric by version or digest. Raises `NotFound`, or `RedisUnavailable` where only Redis can tell.

        A digest's version never changes, so it is asked for once; a version is asked for while Redis answers.
        """
        known = self._known_as(lineage, name)
        if known is not None and (isinstance(name, str) or self._circuit.is_open):
            return known
        try:
            found = await self._circuit.call(lambda: self._store.find(lineage, name))
        except RedisUnavailable:
            if known is None:
                raise
            return known
        self._remember(lineage._replace(scope=found.scope), found)
        return found

    async def current(self, lineage: LineageKey) -> RubricPointer:
        """The active rubric of the narrowest lineage that has one. Raises `NotFound`, `RedisUnavailable`."""
        try:
            return await self._circuit.call(lambda: self._store.active_with_fallback(lineage))
        except RedisUnavailable:
            last = self.last(lineage)
            if last is None:
                raise
            return last

    async def load(self, lineage: LineageKey) -> None:
        """Know what is active in `line`, and its content, before anybody asks. Redis must answer."""
        active = await self._store.active(lineage)
        if active is not None:
            await self._activated(lineage, active)

    async def follow(self) -> None:
        """Have every newly active rubric in process before the first request asks for it."""
        while True:
            try:
                async for told in self._store.announcements():
                    await self._activated(told.lineage, RubricPointer(told.digest, told.version, told.lineage.scope))
            except (RedisError, NotFound) as error:
                detail = f"{type(error).__name__}: {error}"
                log.warning("lost the activation channel; connecting again", extra={"detail": detail})
            await asyncio.sleep(_RECONNECT_S)

    async def poll(self) -> None:
        """Check what is active in each line: an announcement can be lost. Raises `RedisUnavailable`."""
        by_task: defaultdict[str, list[LineageKey]] = defaultdict(list)
        for lineage in self._active:
            by_task[lineage.task].append(lineage)
        for task, lineages in by_task.items():
            found = await self._circuit.call(partial(self._store.active_many, task, lineages))
            for lineage, active in zip(lineages, found, strict=True):
                if active is None:
                    self._active.pop(lineage, None)
                elif active != self._active.get(lineage):
                    await self._circuit.call(partial(self._activated, lineage, active))

    async def _activated(self, lineage: LineageKey, active: RubricPointer) -> None:
        await self._store.get(lineage.task, active.digest)
        self._active.keep(lineage, active)
        self._remember(lineage, active)
        if active.version is not None:
            self._metrics.activated(lineage.task, lineage.name, active.version)
        log.info("rubric active", extra={"task": lineage.task, "version": active.version})

    def _known_as(self, lineage: LineageKey, name: int | str) -> RubricPointer | None:
        return next((self._named[(w, name)] for w in lineage.fallbacks() if (w, name) in self._named), None)

    def _remember(self, lineage: LineageKey, active: RubricPointer) -> None:
        if active.version is not None:
            self._named.keep((lineage, active.digest), active)
            self._named.keep((lineage, active.version), active)
