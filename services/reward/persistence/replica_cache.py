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
from services.kit.store.keys import Line
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

    def make_up(self, key: str, line: Line, active: Active, ttl_s: int) -> Active:
        """What the pin holds by this replica's own choice: `active`, unless it chose before."""
        if key not in self._made_up:
            self._made_up.keep(key, PinRequest(key, line, active, ttl_s, ()))
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
        self._active: _Newest[Line, Active] = _Newest(_LINES)
        self._named: _Newest[tuple[Line, int | str], Active] = _Newest(_NAMES)

    @property
    def any(self) -> bool:
        """Whether there is a line that could be served without Redis."""
        return bool(self._active)

    def last(self, line: Line) -> Active | None:
        """The rubric last known to be active in the narrowest line that has one."""
        return next((self._active[wider] for wider in line.fallbacks() if wider in self._active), None)

    def met(self, line: Line, active: Active) -> None:
        """A pin of `line` holds `active`: it was active once, and is taken to be so still where nothing is known."""
        line = line._replace(scope=active.scope)
        self._remember(line, active)
        if line not in self._active:
            self._active.keep(line, active)

    async def rubric(self, task: str, digest: str) -> Rubric:
        """A rubric's content. Raises `NotFound`, `RedisAway`."""
        cached = self._store.cached(task, digest)
        if cached is not None:
            return cached
        return await self._circuit.call(lambda: self._store.get(task, digest))

    async def find(self, line: Line, name: int | str) -> Active:
        """A rubric by version or digest. Raises `NotFound`, or `RedisAway` where only Redis can tell.

        A digest's version never changes, so it is asked for once; a version is asked for while Redis answers.
        """
        known = self._known_as(line, name)
        if known is not None and (isinstance(name, str) or self._circuit.away):
            return known
        try:
            found = await self._circuit.call(lambda: self._store.find(line, name))
        except RedisAway:
            if known is None:
                raise
            return known
        self._remember(line._replace(scope=found.scope), found)
        return found

    async def now(self, line: Line) -> Active:
        """What is active in the narrowest line that has something. Raises `NotFound`, or `RedisAway` if not known."""
        try:
            return await self._circuit.call(lambda: self._store.active_with_fallback(line))
        except RedisAway:
            last = self.last(line)
            if last is None:
                raise
            return last

    async def load(self, line: Line) -> None:
        """Know what is active in `line`, and its content, before anybody asks. Redis must answer."""
        active = await self._store.active(line)
        if active is not None:
            await self._activated(line, active)

    async def follow(self) -> None:
        """Have every newly active rubric in process before the first request asks for it."""
        while True:
            try:
                async for told in self._store.announcements():
                    await self._activated(told.line, Active(told.digest, told.version, told.line.scope))
            except (RedisError, NotFound) as error:
                detail = f"{type(error).__name__}: {error}"
                log.warning("lost the activation channel; connecting again", extra={"detail": detail})
            await asyncio.sleep(_RECONNECT_S)

    async def poll(self) -> None:
        """Check what is active in each line: an announcement can be lost. Raises `RedisAway`."""
        by_task: defaultdict[str, list[Line]] = defaultdict(list)
        for line in self._active:
            by_task[line.task].append(line)
        for task, lines in by_task.items():
            found = await self._circuit.call(lambda task=task, lines=lines: self._store.active_of(task, lines))  # type: ignore[misc]
            for line, active in zip(lines, found, strict=True):
                if active is None:
                    self._active.pop(line, None)
                elif active != self._active.get(line):
                    await self._circuit.call(lambda line=line, active=active: self._activated(line, active))  # type: ignore[misc]

    async def _activated(self, line: Line, active: Active) -> None:
        await self._store.get(line.task, active.digest)
        self._active.keep(line, active)
        self._remember(line, active)
        if active.version is not None:
            self._metrics.activated(line.task, line.lineage, active.version)
        log.info("rubric active", extra={"task": line.task, "version": active.version})

    def _known_as(self, line: Line, name: int | str) -> Active | None:
        return next((self._named[(w, name)] for w in line.fallbacks() if (w, name) in self._named), None)

    def _remember(self, line: Line, active: Active) -> None:
        if active.version is not None:
            self._named.keep((line, active.digest), active)
            self._named.keep((line, active.version), active)
