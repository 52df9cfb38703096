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
from services.kit.errors import NotFound, Unavailable
from services.kit.lru_cache import LruCache
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, RubricStore
from services.kit.store.trace_log import PinRequest
from services.reward.metrics import RewardMetrics
from services.reward.persistence.circuit_breaker import CircuitBreaker, RedisUnavailable
from services.reward.persistence.restoration import LineageRestorer

log = logging.getLogger(__name__)

_MAX_PINS = 65_536
"""Tens of megabytes at most: the groups of some hundred steps."""

_MAX_LINEAGES = 1_024
_MAX_NAMES = 4_096
_RECONNECT_S = 1.0
_RETRY_LOST_S = 5
"""Another replica that holds the rubric stores it again at its next poll."""


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
        """Record what Redis holds for a pin, for `ttl_s` if it is new; a provisional pin of that key is dropped."""
        if ttl_s > 0:
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

    def __init__(
        self, store: RubricStore, circuit: CircuitBreaker, metrics: RewardMetrics, restorer: LineageRestorer
    ) -> None:
        self._store = store
        self._restorer = restorer
        self._restoring = asyncio.Lock()
        self._circuit = circuit
        self._metrics = metrics
        self._active: LruCache[LineageKey, RubricPointer] = LruCache(_MAX_LINEAGES)
        self._by_name: LruCache[tuple[LineageKey, int | str], RubricPointer] = LruCache(_MAX_NAMES)

    @property
    def any(self) -> bool:
        """Whether some lineage can be served without Redis."""
        return bool(self._active)

    @property
    def tasks(self) -> set[str]:
        """The tasks of the lineages that are active here."""
        return {lineage.task for lineage in self._active}

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
        """The content of a rubric that is pinned or active. Raises `RedisUnavailable`, or `Unavailable` (lost)."""
        cached = self._store.cached(task, digest)
        if cached is not None:
            return cached
        try:
            return await self._circuit.call(lambda: self._store.get(task, digest))
        except NotFound as error:
            raise Unavailable(
                f"Redis has lost rubric {digest}, which {task} uses; "
                f"put it again by `regrade rubric put`, or wait for a replica that holds it",
                code="rubric_lost",
                retry_after=_RETRY_LOST_S,
            ) from error

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
        read = partial(self._store.active_with_fallback, lineage)
        try:
            try:
                return await self._circuit.call(read)
            except NotFound:
                if not await self.restore(lineage):
                    raise
                return await self._circuit.call(read)
        except RedisUnavailable:
            last = self.last_known(lineage)
            if last is None:
                raise
            return last

    async def prepare(self) -> None:
        """Read the active rubrics, and restore those of known lineages that Redis has lost. Raises `RedisError`."""
        for lineage in self._known():
            await self._load(lineage)

    async def restore(self, lineage: LineageKey) -> bool:
        """Whether a lineage without an active rubric, or a wider one, has one again.

        False for lineages that neither the settings nor this replica know. Raises `RedisUnavailable`, or
        `Unavailable` when a known lineage cannot be restored.
        """
        known = self._known()
        lost = [wider for wider in lineage.fallbacks() if wider in known]
        async with self._restoring:
            for wider in lost:
                await self._circuit.call(partial(self._load, wider))
        if lost and not any(wider in self._active for wider in lost):
            raise Unavailable(
                f"Redis has lost the rubrics of {lineage.task}; put one by `regrade rubric put {lineage.task} FILE`",
                code="rubric_lost",
                retry_after=_RETRY_LOST_S,
            )
        return bool(lost)

    def _known(self) -> dict[LineageKey, None]:
        """The lineages of the settings, and those that this replica has served."""
        return dict.fromkeys((*self._restorer.starting, *self._active))

    async def _load(self, lineage: LineageKey) -> None:
        active = await self._store.active(lineage)
        if active is None:
            active = await self._restorer.restore(lineage, self._active.get(lineage))
        if active is None:
            self._active.pop(lineage, None)
        else:
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
        for lineage in self._known():
            by_task[lineage.task].append(lineage)
        for task, lineages in by_task.items():
            pointers = await self._circuit.call(partial(self._store.active_many, task, lineages))
            for lineage, active in zip(lineages, pointers, strict=True):
                if active is None:
                    await self._circuit.call(partial(self._load, lineage))
                elif active != self._active.get(lineage):
                    await self._circuit.call(partial(self._activated, lineage, active))

    async def _activated(self, lineage: LineageKey, active: RubricPointer) -> None:
        await self._store.get(lineage.task, active.digest)
        previous = self._active.get(lineage)
        if previous is not None and (previous.version or 0) > (active.version or 0):
            # A rollback, or another replica has started a lineage anew that Redis had lost: numbers may be others.
            self._by_name.clear()
            await self._store.put_back(lineage.task)
            extra = {"task": lineage.task, "from": previous.version, "to": active.version}
            log.warning("the active version went back", extra=extra)
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
