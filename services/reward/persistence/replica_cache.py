"""Pins and active rubrics in a replica's memory, so that it can score during a Redis outage.

It is filled from Redis, the activation channel and a poll, and ends with the process.
"""

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from functools import partial
from typing import NamedTuple

from redis.exceptions import RedisError

from regrade.contracts import Rubric
from services.kit.errors import NotFound
from services.kit.lru_cache import LruCache
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, RubricStore
from services.kit.store.trace_log import PinRequest
from services.reward.metrics import RewardMetrics
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable

log = logging.getLogger(__name__)

_MAX_PINS = 65_536
"""Tens of megabytes at most: the groups of some hundred steps."""

_MAX_LINEAGES = 1_024
_MAX_NAMES = 4_096
_RECONNECT_S = 1.0


class _CachedPin(NamedTuple):
    active: RubricPointer
    expires: float


class PinCache:
    """Pins read from Redis, and provisional pins: those this replica chose during an outage.

    A provisional pin is a `PinRequest` whose `requested` is the rubric chosen: it is sent to Redis after the outage
    and kept until then.
    """

    def __init__(self) -> None:
        self._pins: LruCache[str, _CachedPin] = LruCache(_MAX_PINS)
        self._provisional: LruCache[str, PinRequest] = LruCache(_MAX_PINS)

    def get(self, key: str) -> RubricPointer | None:
        """What the pin held in Redis's last answer, until its expiry."""
        pin = self._pins.find(key)
        return pin.active if pin is not None and pin.expires > time.monotonic() else None

    def set(self, key: str, active: RubricPointer, ttl_s: int) -> None:
        """Record what Redis holds for a pin; a provisional pin of that key is dropped."""
        self._pins[key] = _CachedPin(active, time.monotonic() + ttl_s)
        self._provisional.pop(key, None)

    def choose_provisional(self, key: str, lineage: LineageKey, active: RubricPointer, ttl_s: int) -> RubricPointer:
        """The rubric of a provisional pin: `active`, unless this replica chose one for that key before."""
        if key not in self._provisional:
            self._provisional[key] = PinRequest(key, lineage, active, ttl_s, ())
        return self._provisional[key].requested or active

    def provisional(self, count: int) -> list[PinRequest]:
        """Up to `count` provisional pins, oldest first."""
        return list(itertools.islice(self._provisional.values(), count))


class ActiveRubricCache:
    """The active rubric of each lineage that this replica has served, and the rubrics it has seen, by name."""

    def __init__(self, store: RubricStore, circuit: CircuitBreaker, metrics: RewardMetrics) -> None:
        self._store = store
        self._circuit = circuit
        self._metrics = metrics
        self._active: LruCache[LineageKey, RubricPointer] = LruCache(_MAX_LINEAGES)
        self._by_name: LruCache[tuple[LineageKey, int | str], RubricPointer] = LruCache(_MAX_NAMES)

    @property
    def any(self) -> bool:
        """Whether some lineage can be served without Redis."""
        return bool(self._active)

    def last_known(self, lineage: LineageKey) -> RubricPointer | None:
        """The rubric last known to be active in the narrowest lineage that has one."""
        return next((self._active[wider] for wider in lineage.fallbacks() if wider in self._active), None)

    def observe(self, lineage: LineageKey, active: RubricPointer) -> None:
        """A pin of the lineage holds `active`: unless another is known, it counts as the active one."""
        lineage = lineage._replace(scope=active.scope)
        self._add_names(lineage, active)
        if lineage not in self._active:
            self._active[lineage] = active

    async def rubric(self, task: str, digest: str) -> Rubric:
        """A rubric's content. Raises `NotFound`, `RedisUnavailable`."""
        cached = self._store.cached(task, digest)
        if cached is not None:
            return cached
        return await self._circuit.call(lambda: self._store.get(task, digest))

    async def find(self, lineage: LineageKey, name: int | str) -> RubricPointer:
        """A rubric by version or digest. Raises `NotFound`, or `RedisUnavailable` when it is not in memory.

        A digest never changes its version, so it is read from Redis once; a version is read again each time.
        """
        known = self._find_name(lineage, name)
        if known is not None and (isinstance(name, str) or self._circuit.is_open):
            return known
        try:
            pointer = await self._circuit.call(lambda: self._store.find(lineage, name))
        except RedisUnavailable:
            if known is None:
                raise
            return known
        self._add_names(lineage._replace(scope=pointer.scope), pointer)
        return pointer

    async def current(self, lineage: LineageKey) -> RubricPointer:
        """The active rubric of the narrowest lineage that has one. Raises `NotFound`, `RedisUnavailable`."""
        try:
            return await self._circuit.call(lambda: self._store.active_with_fallback(lineage))
        except RedisUnavailable:
            last = self.last_known(lineage)
            if last is None:
                raise
            return last

    async def load(self, lineage: LineageKey) -> None:
        """Read the active rubric of a lineage and its content. Raises `RedisError`."""
        active = await self._store.active(lineage)
        if active is not None:
            await self._activated(lineage, active)

    async def follow(self) -> None:
        """Read every newly active rubric when it is announced, before the first request for it. Never returns."""
        while True:
            try:
                async for lineage, digest, version in self._store.announcements():
                    await self._activated(lineage, RubricPointer(digest, version, lineage.scope))
            except (RedisError, NotFound) as error:
                detail = f"{type(error).__name__}: {error}"
                log.warning("lost the activation channel; connecting again", extra={"detail": detail})
                await asyncio.sleep(_RECONNECT_S)
            except Exception:  # anybody who may publish can send what cannot be read
                log.exception("an announcement could not be read; connecting again")
                await asyncio.sleep(_RECONNECT_S)

    async def poll(self) -> None:
        """Read the active rubric of each lineage: an announcement can be lost. Raises `RedisUnavailable`."""
        by_task: defaultdict[str, list[LineageKey]] = defaultdict(list)
        for lineage in self._active:
            by_task[lineage.task].append(lineage)
        for task, lineages in by_task.items():
            pointers = await self._circuit.call(partial(self._store.active_many, task, lineages))
            for lineage, active in zip(lineages, pointers, strict=True):
                if active is None:
                    self._active.pop(lineage, None)
                elif active != self._active.get(lineage):
                    await self._circuit.call(partial(self._activated, lineage, active))

    async def _activated(self, lineage: LineageKey, active: RubricPointer) -> None:
        await self._store.get(lineage.task, active.digest)
        self._active[lineage] = active
        self._add_names(lineage, active)
        if active.version is not None:
            self._metrics.activated(lineage.task, lineage.name, active.version)
        log.info("rubric active", extra={"task": lineage.task, "version": active.version})

    def _find_name(self, lineage: LineageKey, name: int | str) -> RubricPointer | None:
        names = ((wider, name) for wider in lineage.fallbacks())
        return next((self._by_name[key] for key in names if key in self._by_name), None)

    def _add_names(self, lineage: LineageKey, active: RubricPointer) -> None:
        if active.version is not None:
            self._by_name[(lineage, active.digest)] = active
            self._by_name[(lineage, active.version)] = active
