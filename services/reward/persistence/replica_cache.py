"""What a replica remembers of pins and active rubrics, so that it can go on while Redis is away.

Nothing here outlives the process or is newer than Redis: it is told by Redis, the activation channel and a poll.
"""

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from typing import Generic, NamedTuple, TypeVar

from redis.exceptions import RedisError

from regrade.contracts import Rubric
from services.kit.errors import NotFound
from services.kit.store.circuit_breaker import Circuit, RedisAway
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import Active, RubricStore
from services.kit.store.trace_log import PinRequest
from services.reward.metrics import RewardMetrics

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
    active: Active
    until: float


class KnownPins:
    """Pins that Redis told of, and pins made up while it was away. Those stay until Redis has been asked to take them.

    A made-up pin is a `PinRequest` whose `wanted` is what it holds: that is what Redis is asked.
    """

    def __init__(self) -> None:
        self._told: _Newest[str, _Told] = _Newest(_PINS)
        self._made_up: _Newest[str, PinRequest] = _Newest(_PINS)

    def told(self, key: str) -> Active | None:
        """What Redis said the pin holds, for as long as Redis keeps it."""
        found = self._told.get(key)
        return found.active if found is not None and found.until > time.monotonic() else None

    def tell(self, key: str, active: Active, ttl_s: int) -> None:
        """Redis says that the pin holds `active`."""
        self._told.keep(key, _Told(active, time.monotonic() + ttl_s))
        self._made_up.pop(key, None)

    def make_up(self, key: str, lineage: LineageKey, active: Active, ttl_s: int) -> Active:
        """What the pin holds by this replica's own choice: `active`, unless it chose before."""
        if key not in self._made_up:
            self._made_up.keep(key, PinRequest(key, lineage, active, ttl_s, ()))
        return self._made_up[key].wanted or active

    def made_up(self, count: int) -> list[PinRequest]:
        """Up to `count` of the pins made up, oldest first."""
        return [pin for pin, _ in zip(self._made_up.values(), range(count), strict=False)]


class ActiveRubrics:
    """The active rubric of each line this replica has met, and the versions it has met, with their content."""

    def __init__(self, store: RubricStore, circuit: Circuit, metrics: RewardMetrics) -> None:
        self._store = store
        self._circuit = circuit
        self._metrics = metrics
        self._active: _Newest[LineageKey, Active] = _Newest(_LINES)
        self._named: _Newest[tuple[LineageKey, int | str], Active] = _Newest(_NAMES)

    @property
    def any(self) -> bool:
        """Whether there is a line that could be served without Redis."""
        return bool(self._active)

    def last(self, lineage: LineageKey) -> Active | None:
        """The rubric last known to be active in the narrowest line that has one."""
        return next((self._active[wider] for wider in lineage.fallbacks() if wider in self._active), None)

    def met(self, lineage: LineageKey, active: Active) -> None:
        """A pin of `line` holds `active`: it was active once, and is taken to be so still where nothing is known."""
        lineage = lineage._replace(scope=active.scope)
        self._remember(lineage, active)
        if lineage not in self._active:
            self._active.keep(lineage, active)

    async def rubric(self, task: str, digest: str) -> Rubric:
        """A rubric's content. Raises `NotFound`, `RedisAway`."""
        cached = self._store.cached(task, digest)
        if cached is not None:
            return cached
        return await self._circuit.call(lambda: self._store.get(task, digest))

    async def find(self, lineage: LineageKey, name: int | str) -> Active:
        """A rubric by version or digest. Raises `NotFound`, or `RedisAway` where only Redis can tell.

        A digest's version never changes, so it is asked for once; a version is asked for while Redis answers.
        """
        known = self._known_as(lineage, name)
        if known is not None and (isinstance(name, str) or self._circuit.away):
            return known
        try:
            found = await self._circuit.call(lambda: self._store.find(lineage, name))
        except RedisAway:
            if known is None:
                raise
            return known
        self._remember(lineage._replace(scope=found.scope), found)
        return found

    async def now(self, lineage: LineageKey) -> Active:
        """What is active in the narrowest line that has something. Raises `NotFound`, or `RedisAway` if not known."""
        try:
            return await self._circuit.call(lambda: self._store.active_with_fallback(lineage))
        except RedisAway:
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
                    await self._activated(told.lineage, Active(told.digest, told.version, told.lineage.scope))
            except (RedisError, NotFound) as error:
                detail = f"{type(error).__name__}: {error}"
                log.warning("lost the activation channel; connecting again", extra={"detail": detail})
            await asyncio.sleep(_RECONNECT_S)

    async def poll(self) -> None:
        """Check what is active in each line: an announcement can be lost. Raises `RedisAway`."""
        by_task: defaultdict[str, list[LineageKey]] = defaultdict(list)
        for lineage in self._active:
            by_task[lineage.task].append(lineage)
        for task, lineages in by_task.items():
            found = await self._circuit.call(lambda task=task, lineages=lineages: self._store.active_of(task, lineages))  # type: ignore[misc]
            for lineage, active in zip(lineages, found, strict=True):
                if active is None:
                    self._active.pop(lineage, None)
                elif active != self._active.get(lineage):
                    await self._circuit.call(lambda lineage=lineage, active=active: self._activated(lineage, active))  # type: ignore[misc]

    async def _activated(self, lineage: LineageKey, active: Active) -> None:
        await self._store.get(lineage.task, active.digest)
        self._active.keep(lineage, active)
        self._remember(lineage, active)
        if active.version is not None:
            self._metrics.activated(lineage.task, lineage.name, active.version)
        log.info("rubric active", extra={"task": lineage.task, "version": active.version})

    def _known_as(self, lineage: LineageKey, name: int | str) -> Active | None:
        return next((self._named[(w, name)] for w in lineage.fallbacks() if (w, name) in self._named), None)

    def _remember(self, lineage: LineageKey, active: Active) -> None:
        if active.version is not None:
            self._named.keep((lineage, active.digest), active)
            self._named.keep((lineage, active.version), active)
