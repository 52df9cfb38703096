"""The trace log: pins and known outcomes in one read, outcomes and traces in one write, windows for the worker."""

import json
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from regrade.contracts import Trace
from services.kit import results
from services.kit.errors import Overloaded
from services.kit.results import ItemResult, parse_result
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import Commands, LuaFunction, entries, newest
from services.kit.store.rubric_store import RubricPointer

TRACE_LOG_FULL = "trace_log_full"
_PAGE = 512
_LATEST = 16_384


class PinRequest(NamedTuple):
    """A pin to fix or read, the rubric asked for (or None), and the base identities of its items."""

    key: str
    lineage: LineageKey
    wanted: RubricPointer | None
    ttl_s: int
    items: tuple[str, ...]


class PinState(NamedTuple):
    """What a pin holds: `refused` when it holds another rubric than asked for, None when nothing is active."""

    active: RubricPointer | None
    refused: bool
    outcomes: tuple[ItemResult | None, ...]
    unpinned: bool = False
    """Redis was away and this pin not known: another replica may hold another rubric for it."""
    degraded: bool = False
    """Something of it comes from this replica, not from Redis."""


class OutcomeRecord(NamedTuple):
    """One item's outcome to be stored under its identity, its trace, if it leaves one, and its pin, if it has one."""

    identity: str
    result: ItemResult
    trace: results.Trace | None
    pin: PinRequest | None = None


class Row(NamedTuple):
    """A record as Redis takes it: identity, outcome and trace (or "") as JSON."""

    identity: str
    outcome: str | bytes
    trace: str | bytes


class Slice(NamedTuple):
    """Traces, newest first, and the entry behind which older ones go on; None at the log's end."""

    traces: list[Trace]
    older: str | None


class Window(NamedTuple):
    """Traces in order, and the position up to which the log was read: behind what was passed over, too."""

    traces: list[Trace]
    end: str


def _any(_: Trace) -> bool:
    return True


class TraceLog:
    """Pins, item outcomes and traces of all tasks. `outcome_ttl_s` and `cap` (entries) bound what Redis keeps.

    A service that scores gives a `pipe` for what each batch asks.
    """

    def __init__(
        self,
        redis: Redis,
        pipe: Commands | None = None,
        *,
        outcome_ttl_s: int = 7 * 86_400,
        cap: int = 1_000_000,
    ) -> None:
        self._redis = redis
        self._resolve = LuaFunction(pipe or redis, "resolve")
        self._append = LuaFunction(pipe or redis, "append")
        self._advance_cursor = LuaFunction(redis, "advance_cursor")
        self._outcome_ttl_s = outcome_ttl_s
        self._cap = cap

    async def resolve(self, task: str, pins: Sequence[PinRequest]) -> list[PinState]:
        """Fix or read every pin of a batch and fetch its known outcomes, atomically, in one round trip."""
        redis_keys: list[str] = []
        plan = []
        for pin in pins:
            redis_keys.append(pin.key)
            entry = {"pin": len(redis_keys), "wanted": str(pin.wanted or ""), "ttl": pin.ttl_s, "items": pin.items}
            redis_keys.extend(keys.active_key(lineage) for lineage in pin.lineage.fallbacks())
            plan.append(
                entry | {"active": list(range(len(redis_keys) - len(pin.lineage.fallbacks()) + 1, len(redis_keys) + 1))}
            )
        rows = await self._resolve(redis_keys, [json.dumps({"prefix": keys.outcome_prefix(task), "pins": plan})])
        return [_pin_state(row) for row in rows]

    async def append(self, task: str, records: Sequence[OutcomeRecord]) -> list[ItemResult]:
        """Store outcomes and traces in one write; where another writer came first, its outcome is what counts.

        Raises `Overloaded` when the trace stream is at its cap; then nothing was written.
        """
        replies = await self.append_rows(task, [row_of(record) for record in records])
        return [
            record.result if reply == "" else stored_outcome(reply)
            for record, reply in zip(records, replies, strict=True)
        ]

    async def append_rows(self, task: str, rows: Sequence[Row]) -> list[str]:
        """`append` on JSON: per row "" when it was written, else the outcome that stood there before."""
        args: list[str | bytes | int] = [keys.outcome_prefix(task), self._outcome_ttl_s, self._cap]
        for row in rows:
            args.extend(row)
        replies: list[str] = await self._append([keys.traces_key(task)], args)
        if replies == ["full"]:
            raise Overloaded("the trace log is at its cap", code=TRACE_LOG_FULL, retry_after=30)
        return replies

    async def cursor(self, lineage: LineageKey) -> str:
        """The id of the last trace a finished cycle of this line has consumed; `0-0` before the first."""
        stream = keys.traces_key(lineage.task)
        try:
            await self._redis.xgroup_create(stream, lineage.label, id="0-0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        for group in await self._redis.xinfo_groups(stream):
            if group["name"] == lineage.label:
                return str(group["last-delivered-id"])
        return "0-0"

    async def advance_cursor(self, lineage: LineageKey, until: str) -> None:
        """Move the line's cursor up to `until`: behind it stands nothing of this line's. Never backwards.

        A line without traffic would hold the whole task's traces back from the archive. While a cycle is under way
        the cursor is the cycle's.
        """
        await self._advance_cursor(
            [keys.traces_key(lineage.task), keys.checkpoint_key(lineage)], [lineage.label, until]
        )

    async def read(
        self, lineage: LineageKey, after: str, count: int, wanted: Callable[[Trace], bool] = _any, *, until: str = "+"
    ) -> Window:
        """The first `count` of this line's traces behind `after`, up to `until`, that are wanted, oldest first."""
        found: list[Trace] = []
        while len(found) < count:
            page = await entries(self._redis, keys.traces_key(lineage.task), after=after, until=until, count=_PAGE)
            for entry_id, fields in page:
                after = entry_id
                trace = Trace.model_validate_json(fields["trace"])
                if (trace.lineage, trace.scope) == (lineage.name, lineage.scope) and wanted(trace):
                    found.append(trace)
                    if len(found) == count:
                        break
            if len(page) < _PAGE:
                break
        return Window(found, after)

    async def entries_after(self, task: str, after: str, count: int, *, until: str = "+") -> list[tuple[str, Trace]]:
        """The next `count` traces of a task, of all its lines, behind `after` and up to `until`, with their ids."""
        found = await entries(self._redis, keys.traces_key(task), after=after, until=until, count=count)
        return [(entry_id, Trace.model_validate_json(fields["trace"])) for entry_id, fields in found]

    async def cursors(self, task: str) -> list[str]:
        """The cursor of every line that has one, whether a worker serves it or not."""
        if not await self._redis.exists(keys.traces_key(task)):
            return []
        return [str(group["last-delivered-id"]) for group in await self._redis.xinfo_groups(keys.traces_key(task))]

    async def latest(
        self, task: str, count: int, *, until: str = "+", wanted: Callable[[Trace], bool] = _any
    ) -> list[Trace]:
        """The newest `count` traces of a task up to `until` that are wanted, newest first, out of the last 16,384."""
        return (await self.browse(task, count, until=until, wanted=wanted, reach=_LATEST)).traces

    async def browse(
        self, task: str, count: int, *, until: str = "+", wanted: Callable[[Trace], bool] = _any, reach: int
    ) -> Slice:
        """The newest `count` traces up to `until` that are wanted, newest first, out of `reach` entries or few more."""
        found: list[Trace] = []
        for _ in range(0, reach, _PAGE):
            page = await newest(self._redis, keys.traces_key(task), until=until, count=_PAGE)
            for entry_id, fields in page:
                until = f"({entry_id}"
                trace = Trace.model_validate_json(fields["trace"])
                if wanted(trace):
                    found.append(trace)
                    if len(found) == count:
                        return Slice(found, entry_id)
            if len(page) < _PAGE:
                return Slice(found, None)
        return Slice(found, until.removeprefix("("))

    async def by_ids(self, task: str, trace_ids: Set[str]) -> dict[str, Trace]:
        """Those of a task's last 16,384 traces that have one of these ids."""
        found: dict[str, Trace] = {}
        until = "+"
        for _ in range(0, _LATEST, _PAGE):
            page = await newest(self._redis, keys.traces_key(task), until=until, count=_PAGE)
            for entry_id, fields in page:
                until = f"({entry_id}"
                if any(name in fields["trace"] for name in trace_ids):  # most are passed over unread
                    trace = Trace.model_validate_json(fields["trace"])
                    if trace.trace_id in trace_ids:
                        found[trace.trace_id] = trace
            if len(page) < _PAGE or len(found) == len(trace_ids):
                break
        return found


def _pin_state(row: Sequence[str]) -> PinState:
    status, value, *outcomes = row
    return PinState(
        active=RubricPointer.parse(value) if value else None,
        refused=status == "pinned",
        outcomes=tuple(stored_outcome(text) if text else None for text in outcomes),
    )


def row_of(record: OutcomeRecord) -> Row:
    """A record as JSON."""
    trace = record.trace.to_json() if record.trace is not None else b""
    return Row(record.identity, record.result.to_json(), trace)


def stored_outcome(text: str | bytes) -> ItemResult:
    """An outcome that was stored earlier, as a retry is answered with it."""
    return msgspec.structs.replace(parse_result(text), cached=True)
