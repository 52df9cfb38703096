"""The trace log of each task: pins, outcomes and traces for scoring; ordered reads of traces for the worker."""

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
from services.kit.store.redis import CommandSender, LuaFunction, read_entries, read_newest
from services.kit.store.rubric_store import RubricPointer

TRACE_LOG_FULL = "trace_log_full"

_PAGE = 512
"""Entries read in one call: some megabytes at most."""

MAX_SCANNED = 16_384
"""Entries that a search for recent traces reads at most: a few seconds of Redis and parsing."""


class PinRequest(NamedTuple):
    """A pin to read, or to set where it is not set.

    `requested` is the rubric it must hold; None takes the active one. `item_bases` are the identities, without
    the rubric's digest, of the items whose stored outcomes are wanted.
    """

    key: str
    lineage: LineageKey
    requested: RubricPointer | None
    ttl_s: int
    item_bases: tuple[str, ...]
    known: RubricPointer | None = None
    """What this process knows that the pin held; Redis may have lost it."""


class PinState(NamedTuple):
    """What a pin holds, and the stored outcome of each requested item."""

    active: RubricPointer | None
    """None when no rubric is active for the lineage."""
    conflict: bool
    """The pin holds another rubric than the one requested."""
    outcomes: tuple[ItemResult | None, ...]
    ttl_s: int = 0
    """What remains of its lifetime; 0 where it holds what the request said is known."""
    unpinned: bool = False
    """Chosen by this replica during a Redis outage: another replica may have chosen another rubric."""
    degraded: bool = False
    """Some of it comes from this replica's memory or spool, not from Redis."""


class OutcomeRecord(NamedTuple):
    """An item's outcome to be stored under `identity`; its trace and its pin where it has them."""

    identity: str
    result: ItemResult
    trace: results.Trace | None
    pin: PinRequest | None = None

    def to_json(self) -> tuple[str, bytes, bytes]:
        """Identity, outcome and trace (empty where there is none)."""
        return self.identity, self.result.to_json(), b"" if self.trace is None else self.trace.to_json()


class TraceRange(NamedTuple):
    """Traces, and the id of the last entry that was read: the next page starts after it."""

    traces: list[Trace]
    end: str
    """Empty when `recent` has read the log's first entry."""


class TraceLogSize(NamedTuple):
    """The size of a task's stream."""

    entries: int
    bytes: int


def _full(entries: int, size: int) -> Overloaded:
    return Overloaded(
        f"the trace log is at its cap with {entries} traces of {size} bytes; set REGRADE_META_ARCHIVE_URL, "
        "or raise REGRADE_REWARD_TRACE_CAP or REGRADE_REWARD_TRACE_CAP_BYTES",
        code=TRACE_LOG_FULL,
        retry_after=30,
    )


def _any(_: Trace) -> bool:
    return True


class TraceLog:
    """Pins, item outcomes and traces of all tasks.

    `commands` sends the two calls that each batch makes; without it they go through `redis`. Outcomes are kept
    for `outcome_ttl_s`; a task's stream takes no more entries when it holds `cap` of them, or `cap_bytes` of traces.
    """

    def __init__(
        self,
        redis: Redis,
        commands: CommandSender | None = None,
        *,
        outcome_ttl_s: int = 7 * 86_400,
        cap: int = 1_000_000,
        cap_bytes: int = 4_000_000_000,
    ) -> None:
        self._redis = redis
        self._resolve = LuaFunction(commands or redis, "resolve")
        self._append = LuaFunction(commands or redis, "append")
        self._advance_cursor = LuaFunction(redis, "advance_cursor")
        self._outcome_ttl_s = outcome_ttl_s
        self._cap = cap
        self._cap_bytes = cap_bytes

    async def resolve(self, task: str, pins: Sequence[PinRequest]) -> list[PinState]:
        """Read or set every pin of a batch and fetch its stored outcomes, atomically, in one round trip."""
        redis_keys: list[str] = []

        def index(key: str) -> int:
            redis_keys.append(key)
            return len(redis_keys)  # Lua counts from 1

        plan = [
            {
                "pin": index(pin.key),
                "active": [index(keys.active_key(lineage)) for lineage in pin.lineage.fallbacks()],
                "requested": str(pin.requested or ""),
                "known": str(pin.known or ""),
                "ttl": pin.ttl_s,
                "items": pin.item_bases,
            }
            for pin in pins
        ]
        replies = await self._resolve(redis_keys, {"prefix": keys.outcome_prefix(task), "pins": plan})
        return [_pin_state(reply) for reply in replies]

    async def append(self, task: str, records: Sequence[OutcomeRecord]) -> list[ItemResult]:
        """Store outcomes and append traces in one write; answers the outcomes stored first.

        Raises `Overloaded` when the trace stream is at its cap; nothing is written then.
        """
        replies = await self.append_json(task, [record.to_json() for record in records])
        return [first_stored(record, reply) for record, reply in zip(records, replies, strict=True)]

    async def append_json(self, task: str, records: Sequence[tuple[str, str | bytes, str | bytes]]) -> list[str]:
        """`append` for JSON (identity, outcome, trace or ""): per record "" when written, else the earlier outcome."""
        args: list[str | bytes | int] = [keys.outcome_prefix(task), self._outcome_ttl_s, self._cap, self._cap_bytes]
        for record in records:
            args.extend(record)
        replies: list[str] = await self._append([keys.traces_key(task)], args)
        if replies[:1] == ["full"]:
            raise _full(int(replies[1]), int(replies[2]))
        return replies

    async def size(self, task: str) -> TraceLogSize:
        """Entries in the task's stream, and the bytes of their traces."""
        stream = keys.traces_key(task)
        entries = int(await self._redis.xlen(stream))
        first = await read_entries(self._redis, stream, count=1)
        last = await read_newest(self._redis, stream, count=1)
        if not first or not last:
            return TraceLogSize(entries, 0)
        (_, oldest), (_, newest) = first[0], last[0]
        size = int(newest.get("end", 0)) - int(oldest.get("end", 0)) + len(oldest["trace"].encode())
        return TraceLogSize(entries, size)

    async def check_room(self, task: str) -> None:
        """Raises `Overloaded` while the task's stream is at a cap, or the `RedisError` that a write would meet."""
        size = await self.size(task)
        if size.entries >= self._cap or size.bytes >= self._cap_bytes:
            raise _full(*size)

    async def open_cursor(self, lineage: LineageKey) -> bool:
        """Create the lineage's cursor where there is none: whether there was none, or Redis has lost it."""
        try:
            await self._redis.xgroup_create(keys.traces_key(lineage.task), lineage.label, id="0-0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            return False
        return True

    async def cursor(self, lineage: LineageKey) -> str:
        """The id of the last trace that a finished cycle of this lineage has consumed; `0-0` before the first."""
        stream = keys.traces_key(lineage.task)
        await self.open_cursor(lineage)
        groups = await self._redis.xinfo_groups(stream)
        return next((str(group["last-delivered-id"]) for group in groups if group["name"] == lineage.label), "0-0")

    async def cursors(self, task: str) -> list[str]:
        """The cursor of every lineage that has one, whether a worker serves it or not."""
        if not await self._redis.exists(keys.traces_key(task)):
            return []
        return [str(group["last-delivered-id"]) for group in await self._redis.xinfo_groups(keys.traces_key(task))]

    async def advance_cursor(self, lineage: LineageKey, to: str) -> None:
        """Move the lineage's cursor to the entry `to`, which must have no trace of this lineage before it.

        Without this, a lineage without traffic would keep the whole task's traces from being trimmed. It never
        moves backwards, nor while a cycle is under way: then the cursor is the cycle's.
        """
        await self._advance_cursor([keys.traces_key(lineage.task), keys.checkpoint_key(lineage)], [lineage.label, to])

    async def read(
        self, lineage: LineageKey, after: str, count: int, wanted: Callable[[Trace], bool] = _any, *, until: str = "+"
    ) -> TraceRange:
        """The first `count` wanted traces of this lineage after the id `after` and up to `until`, oldest first."""
        traces: list[Trace] = []
        while len(traces) < count:
            page = await read_entries(self._redis, keys.traces_key(lineage.task), after=after, until=until, count=_PAGE)
            for entry_id, fields in page:
                after = entry_id
                trace = Trace.model_validate_json(fields["trace"])
                if (trace.lineage, trace.scope) == (lineage.name, lineage.scope) and wanted(trace):
                    traces.append(trace)
                    if len(traces) == count:
                        break
            if len(page) < _PAGE:
                break
        return TraceRange(traces, after)

    async def entries_after(self, task: str, after: str, count: int, *, until: str = "+") -> list[tuple[str, Trace]]:
        """The next `count` traces of all lineages of a task, with their ids, after the id `after` and up to `until`."""
        page = await read_entries(self._redis, keys.traces_key(task), after=after, until=until, count=count)
        return [(entry_id, Trace.model_validate_json(fields["trace"])) for entry_id, fields in page]

    async def recent(
        self,
        task: str,
        count: int,
        *,
        until: str = "+",
        wanted: Callable[[Trace], bool] = _any,
        max_scanned: int = MAX_SCANNED,
    ) -> TraceRange:
        """The newest `count` wanted traces up to `until`, newest first, among about `max_scanned` entries."""
        traces: list[Trace] = []
        for _ in range(0, max_scanned, _PAGE):
            page = await read_newest(self._redis, keys.traces_key(task), until=until, count=_PAGE)
            for entry_id, fields in page:
                until = f"({entry_id}"
                trace = Trace.model_validate_json(fields["trace"])
                if wanted(trace):
                    traces.append(trace)
                    if len(traces) == count:
                        return TraceRange(traces, entry_id)
            if len(page) < _PAGE:
                return TraceRange(traces, "")
        return TraceRange(traces, until.removeprefix("("))

    async def by_ids(self, task: str, trace_ids: Set[str]) -> dict[str, Trace]:
        """Those of a task's newest `MAX_SCANNED` traces that have one of these ids, by id."""
        traces: dict[str, Trace] = {}
        until = "+"
        for _ in range(0, MAX_SCANNED, _PAGE):
            page = await read_newest(self._redis, keys.traces_key(task), until=until, count=_PAGE)
            for entry_id, fields in page:
                until = f"({entry_id}"
                if any(trace_id in fields["trace"] for trace_id in trace_ids):  # spares parsing most of them
                    trace = Trace.model_validate_json(fields["trace"])
                    if trace.trace_id in trace_ids:
                        traces[trace.trace_id] = trace
            if len(page) < _PAGE or len(traces) == len(trace_ids):
                break
        return traces


def _pin_state(reply: Sequence[str]) -> PinState:
    status, value, ttl, *outcomes = reply
    return PinState(
        active=RubricPointer.parse(value) if value else None,
        conflict=status == "pinned",
        outcomes=tuple(stored_outcome(text) if text else None for text in outcomes),
        ttl_s=int(ttl),
    )


def stored_outcome(text: str | bytes) -> ItemResult:
    """A stored outcome as a retry receives it, marked `cached`. Raises `ValueError`."""
    return msgspec.structs.replace(parse_result(text), cached=True)


def first_stored(record: OutcomeRecord, reply: str | bytes) -> ItemResult:
    """The outcome that counts: the record's own where the reply is empty, else the one that was stored earlier."""
    return stored_outcome(reply) if reply else record.result
