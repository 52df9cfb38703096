"""The rubric store: immutable rubrics by digest, the active pointer of each lineage, and its history."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from redis.asyncio import Redis

from regrade.contracts import (
    Authority,
    EventKind,
    GatePass,
    GateReport,
    LineageEvent,
    Override,
    Reason,
    Rollback,
    Rubric,
)
from services.kit.errors import Conflict, NotFound, ServiceError
from services.kit.lru_cache import LruCache
from services.kit.results import RubricRef
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import LuaFunction, read_entries, read_newest
from services.kit.templates import fill

_CACHED_RUBRICS = 512
_EVENTS_PAGE = 16
"""Events read in one call when searching backwards: the one searched for is mostly among the newest."""
_SILENCE_S = 30.0


class RubricPointer(NamedTuple):
    """The value of an active pointer or a pin: a rubric's digest, its version, and the scope of its lineage."""

    digest: str
    version: int | None
    scope: str | None

    @classmethod
    def parse(cls, value: str) -> "RubricPointer":
        digest, version, scope = value.split(" ", 2)
        return cls(digest, int(version) or None, scope or None)

    def __str__(self) -> str:
        return f"{self.digest} {self.version or 0} {self.scope or ''}"

    @lru_cache(maxsize=1_024)  # noqa: B019 - a value; the same few are needed for every item
    def ref(self, lineage: str) -> RubricRef:
        """The form that `/score` returns."""
        return RubricRef(lineage=lineage, scope=self.scope, version=self.version, digest=self.digest)


class Announcement(NamedTuple):
    """Published to every replica when a rubric becomes active."""

    lineage: LineageKey
    digest: str
    version: int


class RubricStore:
    """Reads and writes rubrics, which are cached in process by digest since they cannot change (I1)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._activate = LuaFunction(redis, "activate")
        self._cache: LruCache[tuple[str, str], Rubric] = LruCache(_CACHED_RUBRICS)

    async def put(self, task: str, rubric: Rubric) -> str:
        """Store a rubric under its digest, unless it is stored already, and return the digest."""
        await self._redis.set(keys.rubric_key(task, rubric.digest), rubric.model_dump_json(), nx=True)
        return rubric.digest

    async def get(self, task: str, digest: str) -> Rubric:
        """The rubric of that digest. Raises `NotFound`, or `ValueError` when the stored content has another digest."""
        cached = self.cached(task, digest)
        if cached is not None:
            return cached
        text = await self._redis.get(keys.rubric_key(task, digest))
        if text is None:
            raise NotFound(f"task {task!r} has no rubric {digest}", code="unknown_rubric")
        rubric = Rubric.model_validate_json(text)
        if rubric.digest != digest:
            raise ValueError(f"the store holds another rubric under {digest}: its digest is {rubric.digest}")
        self.add_to_cache(task, rubric)
        return rubric

    async def put_back(self, task: str) -> None:
        """Store the task's rubrics that this process holds, unless they are stored: Redis may have lost them."""
        for name, digest in list(self._cache):
            if name == task:
                await self.put(task, self._cache[name, digest])

    def cached(self, task: str, digest: str) -> Rubric | None:
        """The rubric of that digest if this process holds it."""
        return self._cache.find((task, digest))

    def add_to_cache(self, task: str, rubric: Rubric) -> None:
        """Hold a rubric in process, so that it can be used without Redis."""
        self._cache[(task, rubric.digest)] = rubric

    async def labelled(self, lineage: LineageKey, digest: str) -> Rubric:
        """The rubric of that digest with the names of `lineage` and its version there."""
        rubric = await self.get(lineage.task, digest)
        version = await self._redis.hget(keys.versions_key(lineage), digest)
        labels = {"lineage": lineage.name, "scope": lineage.scope, "version": int(version) if version else None}
        return rubric.model_copy(update=labels)

    async def active(self, lineage: LineageKey) -> RubricPointer | None:
        """The active pointer of exactly this lineage."""
        return (await self.active_many(lineage.task, [lineage]))[0]

    async def active_many(self, task: str, lineages: Sequence[LineageKey]) -> list[RubricPointer | None]:
        """The active pointers of exactly these lineages of one task, in one round trip."""
        values = await self._redis.mget([keys.active_key(lineage) for lineage in lineages])
        return [RubricPointer.parse(str(value)) if value else None for value in values]

    async def active_with_fallback(self, lineage: LineageKey) -> RubricPointer:
        """The active pointer of the narrowest lineage that has one. Raises `NotFound`."""
        for active in await self.active_many(lineage.task, lineage.fallbacks()):
            if active is not None:
                return active
        raise NotFound(no_active_rubric(lineage.task, lineage.name), code="unknown_task")

    async def versions(self, lineage: LineageKey) -> dict[int, str]:
        """Digest by version, in ascending order, of every rubric that was ever active in this lineage."""
        versions = await self._redis.hgetall(keys.versions_key(lineage))
        return dict(sorted((int(version), str(digest)) for digest, version in versions.items()))

    async def rolled_back(self, lineage: LineageKey) -> dict[str, str]:
        """Reason by digest, of every rubric that was rolled back: the gate may not activate it again."""
        reasons = await self._redis.hgetall(keys.rolled_back_key(lineage))
        return {str(digest): str(reason) for digest, reason in reasons.items()}

    async def in_rollback_cooldown(self, lineage: LineageKey) -> bool:
        """Whether an automatic rollback is so recent that another one is refused."""
        return bool(await self._redis.exists(keys.rollback_cooldown_key(lineage)))

    async def lineages(self, task: str) -> list[LineageKey]:
        """Every lineage of a task that ever had an active rubric, sorted by label."""
        labels = await self._redis.smembers(keys.lineages_key(task))
        return [LineageKey.of(task, str(label)) for label in sorted(labels)]

    async def find(self, lineage: LineageKey, name: int | str) -> RubricPointer:
        """A rubric by version (in the narrowest lineage that has it) or by digest. Raises `NotFound`."""
        for candidate in lineage.fallbacks():
            for version, digest in (await self.versions(candidate)).items():
                if name in (version, digest):
                    return RubricPointer(digest, version, candidate.scope)
        if isinstance(name, str):
            return RubricPointer((await self.get(lineage.task, name)).digest, None, lineage.scope)
        raise NotFound(f"task {lineage.task!r} has no rubric version {name}", code="unknown_rubric")

    async def record(self, lineage: LineageKey, event: LineageEvent) -> None:
        """Append an event to the history; Redis sets its id and time. A passed gate report permits an activation."""
        async with self._redis.pipeline(transaction=True) as pipe:
            if event.gate is not None and event.gate.passed:
                pipe.hset(keys.gate_passes_key(lineage), event.digest, event.gate.active.digest)
            pipe.xadd(keys.lineage_events_key(lineage), {"event": event_json(event)})
            await pipe.execute()

    async def activate(
        self,
        lineage: LineageKey,
        digest: str,
        *,
        expected: str | None,
        authority: Authority,
        token: str = "",
        cooldown_s: float = 0.0,
        version: int | None = None,
    ) -> int:
        """Make a stored rubric active if the digest `expected` still is, and return its version.

        `token` is the fencing token of a cycle; `cooldown_s` makes it an automatic rollback and refuses another one
        for that long; `version` is the number it had in a history that Redis has lost. Raises `NotFound`, or
        `Conflict`: another rubric is active, the lease was lost, no passed gate report is recorded for a `GatePass`,
        the rubric was rolled back before, or the cooldown still lasts.
        """
        event = _activation(digest, authority)
        is_bootstrap = isinstance(authority, Override) and authority.bootstrap
        notice = json.dumps({"task": lineage.task, "lineage": lineage.name, "scope": lineage.scope, "digest": digest})
        redis_keys = [
            keys.active_key(lineage),
            keys.versions_key(lineage),
            keys.gate_passes_key(lineage),
            keys.lineage_events_key(lineage),
            keys.lease_key(lineage),
            keys.rubric_key(lineage.task, digest),
            keys.rolled_back_key(lineage),
            keys.rollback_cooldown_key(lineage),
            keys.lineages_key(lineage.task),
        ]
        args = {
            "digest": digest,
            "scope": lineage.scope or "",
            "expected": expected or "",
            "authority": "bootstrap" if is_bootstrap else authority.kind,
            "token": token,
            "event": event_json(event),
            "channel": keys.ACTIVATIONS_CHANNEL,
            "announcement": notice.removesuffix("}"),
            "cooldown_ms": int(1_000 * cooldown_s),
            "label": lineage.label,
            "version": version or 0,
        }
        status, detail = await self._activate(redis_keys, args)
        if status != "ok":
            raise _refusal(status, detail)
        return int(detail)

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
        """Activate version `to`, or the rubric that was active before the current one. Raises `Conflict`, `NotFound`.

        `expected` is the digest believed to be active; with it, a repeated call rolls back only once. `cooldown_s`
        marks an automatic rollback, which is refused within that many seconds of the last automatic one.
        """
        current = await self.active(lineage)
        if current is None:
            raise NotFound(f"{lineage.label} of {lineage.task!r} has no active rubric", code="unknown_task")
        if expected is not None and expected != current.digest:
            raise Conflict(fill(_CONFLICTS["conflict"], detail=current.digest))
        if to is None:
            target = await self.digest_before(lineage, current.digest)
        else:
            target = (await self.find(lineage, to)).digest
        by_rollback = Rollback(by=by, reason=reason)
        version = await self.activate(
            lineage, target, expected=current.digest, authority=by_rollback, cooldown_s=cooldown_s
        )
        return RubricPointer(target, version, lineage.scope)

    async def digest_before(self, lineage: LineageKey, digest: str) -> str:
        """The digest that was active before this one. Raises `Conflict` for the lineage's first rubric."""
        async for event in self._newest_first(lineage):
            if event.kind is EventKind.ACTIVATED and event.digest == digest and event.previous:
                return event.previous
        raise Conflict("this is the lineage's first rubric: there is nothing to roll back to", code="first_version")

    async def history(self, lineage: LineageKey) -> list[LineageEvent]:
        """Every event of the lineage, oldest first."""
        page = await read_entries(self._redis, keys.lineage_events_key(lineage))
        return [_read_event(entry_id, fields) for entry_id, fields in page]

    async def latest(self, lineage: LineageKey, count: int, *, before: str | None = None) -> list[LineageEvent]:
        """The newest `count` events of the lineage (before the event id `before`), oldest first."""
        until = f"({before}" if before else "+"
        page = await read_newest(self._redis, keys.lineage_events_key(lineage), until=until, count=count)
        return [_read_event(entry_id, fields) for entry_id, fields in reversed(page)]

    async def last_change(self, lineage: LineageKey) -> LineageEvent | None:
        """The newest activation or rollback, which made the active rubric active."""
        async for event in self._newest_first(lineage):
            if event.kind in (EventKind.ACTIVATED, EventKind.ROLLED_BACK):
                return event
        return None

    async def activated_by(self, lineage: LineageKey, cycle: str) -> str | None:
        """The digest that a cycle activated, if it did."""
        async for event in self._newest_first(lineage):
            if event.kind is EventKind.ACTIVATED and event.cycle == cycle:
                return event.digest
        return None

    async def _newest_first(self, lineage: LineageKey) -> AsyncIterator[LineageEvent]:
        """The lineage's events, newest first, read page by page."""
        before: str | None = None
        while page := await self.latest(lineage, _EVENTS_PAGE, before=before):
            for event in reversed(page):
                yield event
            before = page[0].id

    async def announcements(self) -> AsyncIterator[Announcement]:
        """Activations as they happen, of every task, until there was none for `_SILENCE_S`.

        The caller then subscribes again: a dead connection, or one to a server that another one has replaced, is
        silent, too.
        """
        loop = asyncio.get_running_loop()
        async with self._redis.pubsub() as pubsub:
            await pubsub.subscribe(keys.ACTIVATIONS_CHANNEL)
            end = loop.time() + _SILENCE_S
            while (remaining_s := end - loop.time()) > 0.0:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=remaining_s)
                if message is None:
                    continue
                end = loop.time() + _SILENCE_S
                notice = json.loads(message["data"])
                lineage = LineageKey(notice["task"], notice["lineage"], notice["scope"])
                yield Announcement(lineage, notice["digest"], notice["version"])


def no_active_rubric(task: str, lineage: str) -> str:
    """The text of a `NotFound` for a task without a rubric."""
    return (
        f"task {task!r} has no active rubric in lineage {lineage!r}; run `regrade rubric put {task} FILE`, "
        "or list the task in REGRADE_REWARD_BOOTSTRAP_TASKS"
    )


_CONFLICTS = {
    "fenced": "the cycle lost its lease, so its activation was refused",
    "conflict": "another rubric is active: {detail}",
    "ungated": "rubric {detail} has not passed the gate against the active one",
    "rolled_back": "rolled back: {detail}; only an override can activate it again",
    "cooling": "rubric {detail} was rolled back automatically; "
    "another automatic rollback is refused for REGRADE_META_WATCH_COOLDOWN_S seconds after that",
    "never_active": "rubric {detail} has never been active, so it cannot be rolled back to",
}


def _refusal(status: str, detail: str) -> ServiceError:
    if status == "unknown":
        return NotFound(f"rubric {detail} is not stored", code="unknown_rubric")
    return Conflict(fill(_CONFLICTS[status], detail=detail or "none"), code=status)


def candidate_event(kind: EventKind, digest: str, *, by: str, reason: str, cycle: str) -> LineageEvent:
    """A candidate was proposed, or refused before the gate measured it."""
    return LineageEvent(id="", time=0.0, kind=kind, digest=digest, by=by, reason=reason, cycle=cycle)


def refusal_event(digest: str, reasons: Sequence[Reason], *, by: str, cycle: str) -> LineageEvent:
    """A candidate was refused."""
    text = "; ".join(reason.text for reason in reasons)
    event = candidate_event(EventKind.REJECTED, digest, by=by, reason=text, cycle=cycle)
    return event.model_copy(update={"codes": tuple(reason.code for reason in reasons)})


def gate_event(report: GateReport) -> LineageEvent:
    """The gate accepted or refused a candidate."""
    digest, by, cycle = report.candidate.digest, report.proposer, report.cycle
    if report.passed:
        event = candidate_event(EventKind.GATED, digest, by=by, reason="passed the gate", cycle=cycle)
    else:
        event = refusal_event(digest, report.reasons, by=by, cycle=cycle)
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
    """An event as the stream stores it; Redis adds id and time, an activation adds version and previous digest."""
    return event.model_dump_json(exclude={"id", "time", "version", "previous"})


def _read_event(entry_id: str, fields: dict[str, str]) -> LineageEvent:
    version = fields.get("version")
    stored = json.loads(fields["event"])
    added = {
        "id": entry_id,
        "time": int(entry_id.split("-")[0]) / 1000.0,
        "version": int(version) if version else None,
        "previous": fields.get("previous") or None,
    }
    return LineageEvent.model_validate(stored | added)
