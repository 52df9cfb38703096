"""The rubric store: immutable rubrics by digest, one active pointer per line, and the line's history."""

import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from redis.asyncio import Redis

from regrade.contracts import Authority, EventKind, GatePass, GateReport, LineageEvent, Override, Rollback, Rubric
from services.kit.errors import Conflict, NotFound
from services.kit.results import RubricRef
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import LuaFunction, entries, newest
from services.kit.templates import fill

_CACHED_RUBRICS = 512
_EVENTS_PAGE = 16


class RubricPointer(NamedTuple):
    """An active pointer or a pin: which rubric, its label in its line, and the line's scope."""

    digest: str
    version: int | None
    scope: str | None

    @classmethod
    def parse(cls, value: str) -> "RubricPointer":
        digest, version, scope = value.split(" ", 2)
        return cls(digest, int(version) or None, scope or None)

    def __str__(self) -> str:
        return f"{self.digest} {self.version or 0} {self.scope or ''}"

    @lru_cache(maxsize=1_024)  # noqa: B019 - it is a value, and the same few are asked for every item
    def ref(self, lineage: str) -> RubricRef:
        """As `/score` answers it."""
        return RubricRef(lineage=lineage, scope=self.scope, version=self.version, digest=self.digest)


class Announcement(NamedTuple):
    """Told to every replica when a rubric becomes active."""

    lineage: LineageKey
    digest: str
    version: int


class RubricStore:
    """Reads and writes rubrics. Rubrics are cached in process by digest: they cannot change (I1)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._activate = LuaFunction(redis, "activate")
        self._cache: OrderedDict[tuple[str, str], Rubric] = OrderedDict()

    async def put(self, task: str, rubric: Rubric) -> str:
        """Store a rubric under its digest and return the digest; a digest already there is left as it is."""
        await self._redis.set(keys.rubric_key(task, rubric.digest), rubric.model_dump_json(), nx=True)
        return rubric.digest

    async def get(self, task: str, digest: str) -> Rubric:
        """The rubric of that digest. Raises `NotFound`; a stored rubric whose content changed raises `ValueError`."""
        cached = self.cached(task, digest)
        if cached is not None:
            return cached
        text = await self._redis.get(keys.rubric_key(task, digest))
        if text is None:
            raise NotFound(f"task {task!r} has no rubric {digest}", code="unknown_rubric")
        rubric = Rubric.model_validate_json(text)
        if rubric.digest != digest:
            raise ValueError(f"the store holds another rubric under {digest}")
        self.keep(task, rubric)
        return rubric

    def cached(self, task: str, digest: str) -> Rubric | None:
        """The rubric of that digest if this process has it."""
        found = self._cache.get((task, digest))
        if found is not None:
            self._cache.move_to_end((task, digest))
        return found

    def keep(self, task: str, rubric: Rubric) -> None:
        """Have a rubric in process from now on."""
        self._cache[(task, rubric.digest)] = rubric
        if len(self._cache) > _CACHED_RUBRICS:
            self._cache.popitem(last=False)

    async def labelled(self, lineage: LineageKey, digest: str) -> Rubric:
        """The rubric of that digest as it stands in `line`: with the line's names and its version there."""
        rubric = await self.get(lineage.task, digest)
        version = await self._redis.hget(keys.versions_key(lineage), digest)
        place = {"lineage": lineage.name, "scope": lineage.scope, "version": int(version) if version else None}
        return rubric.model_copy(update=place)

    async def active(self, lineage: LineageKey) -> RubricPointer | None:
        """The active pointer of exactly this line."""
        value = await self._redis.get(keys.active_key(lineage))
        return RubricPointer.parse(str(value)) if value else None

    async def active_many(self, task: str, lineages: Sequence[LineageKey]) -> list[RubricPointer | None]:
        """The active pointers of exactly these lines of one task, in one round trip."""
        values = await self._redis.mget([keys.active_key(lineage) for lineage in lineages])
        return [RubricPointer.parse(str(value)) if value else None for value in values]

    async def active_with_fallback(self, lineage: LineageKey) -> RubricPointer:
        """The active pointer of the narrowest line that has one. Raises `NotFound`."""
        for candidate in lineage.fallbacks():
            active = await self.active(candidate)
            if active is not None:
                return active
        raise NotFound(
            f"task {lineage.task!r} has no active rubric in lineage {lineage.name!r}; put one first",
            code="unknown_task",
        )

    async def versions(self, lineage: LineageKey) -> dict[int, str]:
        """Digest by version, of every rubric that was ever active in this line, in ascending order."""
        found = await self._redis.hgetall(keys.versions_key(lineage))
        return dict(sorted((int(version), str(digest)) for digest, version in found.items()))

    async def rolled_back(self, lineage: LineageKey) -> dict[str, str]:
        """Reason by digest, of every rubric that the gate may not make active again."""
        found = await self._redis.hgetall(keys.rolled_back_key(lineage))
        return {str(digest): str(reason) for digest, reason in found.items()}

    async def in_rollback_cooldown(self, lineage: LineageKey) -> bool:
        """Whether an automatic rollback is so recent that there may be no other."""
        return bool(await self._redis.exists(keys.rollback_cooldown_key(lineage)))

    async def lineages(self, task: str) -> list[LineageKey]:
        """Every line of a task that ever had an active rubric, in the order of their labels."""
        return [
            LineageKey.of(task, str(label)) for label in sorted(await self._redis.smembers(keys.lineages_key(task)))
        ]

    async def find(self, lineage: LineageKey, name: int | str) -> RubricPointer:
        """A rubric by version (in the narrowest line that has it) or by digest. Raises `NotFound`."""
        for candidate in lineage.fallbacks():
            for version, digest in (await self.versions(candidate)).items():
                if name in (version, digest):
                    return RubricPointer(digest, version, candidate.scope)
        if isinstance(name, str):
            return RubricPointer((await self.get(lineage.task, name)).digest, None, lineage.scope)
        raise NotFound(f"task {lineage.task!r} has no rubric version {name}", code="unknown_rubric")

    async def record(self, lineage: LineageKey, event: LineageEvent) -> None:
        """Append an event to the history; its id and time are the store's. A gate report that passed is remembered."""
        async with self._redis.pipeline(transaction=True) as pipe:
            if event.gate is not None and event.gate.passed:
                pipe.hset(keys.gate_passes_key(lineage), event.digest, event.gate.active.digest)
            pipe.xadd(keys.lineage_events_key(lineage), {"event": event_json(event)})
            await pipe.execute()

    async def record_gate(self, lineage: LineageKey, report: GateReport) -> None:
        """Record a gate's verdict; passing it is what `GatePass` activates on."""
        await self.record(lineage, gate_event(report))

    async def activate(
        self,
        lineage: LineageKey,
        digest: str,
        *,
        expected: str | None,
        authority: Authority,
        token: str = "",
        cooldown_s: float = 0.0,
    ) -> int:
        """Make a stored rubric active if `expected` still is, and return its version.

        `token` is the fencing token of a cycle, `cooldown_s` how long an automatic rollback is the line's last one.
        Raises `Conflict` (another is active, the lease was lost, no gate report stands behind a `GatePass`, it was
        rolled back before, or an automatic rollback is too recent) or `NotFound`.
        """
        event = _activation(digest, authority)
        what: Literal["gate", "override", "rollback", "bootstrap"] = authority.kind
        if isinstance(authority, Override) and authority.bootstrap:
            what = "bootstrap"
        notice = json.dumps({"task": lineage.task, "lineage": lineage.name, "scope": lineage.scope, "digest": digest})
        status, detail = await self._activate(
            [
                keys.active_key(lineage),
                keys.versions_key(lineage),
                keys.gate_passes_key(lineage),
                keys.lineage_events_key(lineage),
                keys.lease_key(lineage),
                keys.rubric_key(lineage.task, digest),
                keys.rolled_back_key(lineage),
                keys.rollback_cooldown_key(lineage),
                keys.lineages_key(lineage.task),
            ],
            [
                digest,
                lineage.scope or "",
                expected or "",
                what,
                token,
                event_json(event),
                keys.ACTIVATIONS_CHANNEL,
                notice.removesuffix("}"),
                int(1_000 * cooldown_s),
                lineage.label,
            ],
        )
        if status == "ok":
            return int(detail)
        if status == "unknown":
            raise NotFound(f"rubric {digest} is not stored", code="unknown_rubric")
        raise Conflict(fill(_REFUSALS[status], detail=detail or "none"), code=status)

    async def rollback(
        self,
        lineage: LineageKey,
        *,
        by: str,
        reason: str,
        expected: str | None = None,
        to: int | None = None,
        cooldown_s: float = 0.0,
    ) -> RubricPointer:
        """Return to version `to`, or to the one before the active one. Raises `Conflict`, `NotFound`.

        `expected` is the digest believed to be active; a caller that names it goes back once however often it asks.
        With `cooldown_s` it is an automatic one: none within so many seconds behind the last automatic one.
        """
        current = await self.active(lineage)
        if current is None:
            raise NotFound(f"{lineage.label} of {lineage.task!r} has no active rubric", code="unknown_task")
        if expected is not None and expected != current.digest:
            raise Conflict(fill(_REFUSALS["conflict"], detail=current.digest))
        target = (await self.find(lineage, to)).digest if to is not None else await self.before(lineage, current.digest)
        authority = Rollback(by=by, reason=reason)
        version = await self.activate(
            lineage, target, expected=current.digest, authority=authority, cooldown_s=cooldown_s
        )
        return RubricPointer(target, version, lineage.scope)

    async def before(self, lineage: LineageKey, digest: str) -> str:
        """What was active before the rubric of that digest became so. Raises `Conflict` for the line's first."""
        async for event in self._newest_first(lineage):
            if event.kind is EventKind.ACTIVATED and event.digest == digest and event.previous:
                return event.previous
        raise Conflict("the active rubric is the line's first: there is nothing to roll back to", code="first_version")

    async def history(self, lineage: LineageKey) -> list[LineageEvent]:
        """Every event of the line, oldest first."""
        return [
            _read_event(entry_id, fields)
            for entry_id, fields in await entries(self._redis, keys.lineage_events_key(lineage))
        ]

    async def latest(self, lineage: LineageKey, count: int, *, before: str | None = None) -> list[LineageEvent]:
        """The newest `count` events of the line (of those before an event's id), oldest first."""
        until = f"({before}" if before else "+"
        found = await newest(self._redis, keys.lineage_events_key(lineage), until=until, count=count)
        return [_read_event(entry_id, fields) for entry_id, fields in reversed(found)]

    async def last_change(self, lineage: LineageKey) -> LineageEvent | None:
        """The newest activation or rollback: how the active rubric came to be active."""
        async for event in self._newest_first(lineage):
            if event.kind in (EventKind.ACTIVATED, EventKind.ROLLED_BACK):
                return event
        return None

    async def activated_by(self, lineage: LineageKey, cycle: str) -> str | None:
        """The digest that a cycle made active, if it has."""
        async for event in self._newest_first(lineage):
            if event.kind is EventKind.ACTIVATED and event.cycle == cycle:
                return event.digest
        return None

    async def _newest_first(self, lineage: LineageKey) -> AsyncIterator[LineageEvent]:
        """The line's events backwards, read a few at a time: what one looks for is mostly near the end."""
        page = await newest(self._redis, keys.lineage_events_key(lineage), count=_EVENTS_PAGE)
        while page:
            for entry_id, fields in page:
                yield _read_event(entry_id, fields)
            page = await newest(
                self._redis, keys.lineage_events_key(lineage), until=f"({page[-1][0]}", count=_EVENTS_PAGE
            )

    async def announcements(self) -> AsyncIterator[Announcement]:
        """Activations as they happen, of every task, until the iterator is closed."""
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(keys.ACTIVATIONS_CHANNEL)
            async for message in pubsub.listen():
                told = json.loads(message["data"])
                lineage = LineageKey(told["task"], told["lineage"], told["scope"])
                yield Announcement(lineage, told["digest"], told["version"])


_REFUSALS = {
    "fenced": "the cycle lost its lease; its activation was refused",
    "conflict": "another rubric is active by now: {detail}",
    "ungated": "rubric {detail} has not passed the gate against the active one",
    "rolled_back": "rolled back: {detail}; it takes an override to make it active again",
    "cooling": "rubric {detail} was rolled back automatically a short while ago; no other is until that has shown",
    "never_active": "rubric {detail} has never been active, so it is no target of a rollback",
}


def candidate_event(kind: EventKind, digest: str, *, by: str, reason: str, cycle: str) -> LineageEvent:
    """A candidate was proposed, or refused before the gate measured it."""
    return LineageEvent(id="", time=0.0, kind=kind, digest=digest, by=by, reason=reason, cycle=cycle)


def gate_event(report: GateReport) -> LineageEvent:
    """A gate's verdict."""
    event = candidate_event(
        EventKind.GATED if report.passed else EventKind.REJECTED,
        report.candidate.digest,
        by=report.proposer,
        reason="; ".join(report.reasons) or "passed the gate",
        cycle=report.cycle,
    )
    return event.model_copy(update={"gate": report})


def _activation(digest: str, authority: Authority) -> LineageEvent:
    kind = EventKind.ROLLED_BACK if isinstance(authority, Rollback) else EventKind.ACTIVATED
    cycle: str | None = None
    if isinstance(authority, GatePass):
        by, reason, cycle = "gate", "passed the gate", authority.cycle
    else:
        by, reason = authority.by, authority.reason
        cycle = authority.cycle if isinstance(authority, Override) else None
    return LineageEvent(
        id="", time=0.0, kind=kind, digest=digest, by=by, reason=reason, cycle=cycle, authority=authority
    )


def event_json(event: LineageEvent) -> str:
    """An event as the stream holds it: id, time and what an activation adds are the store's."""
    return event.model_dump_json(exclude={"id", "time", "version", "previous"})


def _read_event(entry_id: str, fields: dict[str, str]) -> LineageEvent:
    version = fields.get("version")
    stored = json.loads(fields["event"])
    place = {"id": entry_id, "time": int(entry_id.split("-")[0]) / 1000.0, "version": int(version) if version else None}
    return LineageEvent.model_validate(stored | place | {"previous": fields.get("previous") or None})
