"""The archive: traces go to Parquet before they leave Redis, and nothing leaves Redis that a line still needs.

A file is named by the range of ids it holds. The range is noted in Redis before the file appears, so a worker
that takes over writes the same file again or goes on behind it: a crash in between loses and doubles nothing.
"""

import asyncio
import logging
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from regrade.contracts.score import Outcome
from services.kit.errors import Conflict, ServiceError
from services.kit.store import keys
from services.kit.store.redis import LuaFunction, entry_position, read_entries
from services.kit.store.trace_log import TraceLog
from services.meta_reward.archive.parquet import ArchiveStore, TraceFile
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.leases import Leases

log = logging.getLogger(__name__)

_PAGE = 256
_FILES_A_LOOK = 64


class FileRange(Outcome):
    """A range of the stream that one file holds: behind `after`, up to and including `last`."""

    after: str
    last: str
    rows: int


class ArchiveState(Outcome):
    """How far a task is archived: `done` is the last id; `next` is a file announced and not known to be there.

    `kept` are ranges archived that still stand in Redis, oldest first.
    """

    done: str = "0-0"
    next: FileRange | None = None
    kept: tuple[FileRange, ...] = ()


class ArchiveLimits(NamedTuple):
    """Traces in a file at most, seconds after which a smaller one is written, traces that stay in Redis at least."""

    rows: int
    every_s: float
    keep: int

    @classmethod
    def of(cls, settings: MetaRewardSettings) -> "ArchiveLimits":
        """As set."""
        return cls(settings.archive_rows, settings.archive_every_s, settings.archive_keep)


class Archiver:
    """Archives and trims each task's traces. Any number of workers may run one: a task's lease admits one of them."""

    def __init__(
        self, redis: Redis, store: ArchiveStore, leases: Leases, metrics: MetaRewardMetrics, limits: ArchiveLimits
    ) -> None:
        self._redis = redis
        self._log = TraceLog(redis)
        self._step = LuaFunction(redis, "archive")
        self._store = store
        self._leases = leases
        self._metrics = metrics
        self._limits = limits

    async def run(self, tasks: tuple[str, ...], poll_s: float) -> None:
        """Look at every task again and again, until cancelled. One that fails is logged and looked at again."""
        while True:
            for task in tasks:
                try:
                    await self.archive_due(task)
                except (RedisError, ServiceError) as error:
                    self._metrics.failed(task, type(error).__name__)
                    log.warning("traces could not be archived", exc_info=True, extra={"task": task})
                except Exception:
                    self._metrics.failed(task, "archive")
                    log.exception("traces could not be archived", extra={"task": task})
            await asyncio.sleep(poll_s)

    async def archive_due(self, task: str) -> None:
        """Archive what is due and trim what may go, unless another worker is at it."""
        if not await self._due(task):
            return
        async with self._leases.hold_archive(task) as token:
            if token is None:
                return
            await asyncio.to_thread(self._store.tidy, task)
            state = await self.state(task)
            for _ in range(_FILES_A_LOOK):
                state, wrote = await self._archive(task, token, state)
                state = await self._trim(task, token, state)
                if not wrote:
                    break

    async def state(self, task: str) -> ArchiveState:
        """How far the task is archived."""
        text = await self._redis.get(keys.archive_key(task))
        return ArchiveState.model_validate_json(text) if text else ArchiveState()

    async def _due(self, task: str) -> bool:
        """Whether there is a file to write or a range to trim; costs little when there is not."""
        state = await self.state(task)
        if state.next is not None or await self._has_full_file(task, state):
            return True
        return bool(await self._removable(task, state))

    async def _has_full_file(self, task: str, state: ArchiveState) -> bool:
        """Whether a file's worth of traces is there, or some that have waited long enough."""
        first = await read_entries(self._redis, keys.traces_key(task), after=state.done, count=1)
        if not first:
            return False
        # `kept` is what is archived and still in the stream: the rest of the stream is what is not.
        waiting = int(await self._redis.xlen(keys.traces_key(task))) - sum(file_range.rows for file_range in state.kept)
        if waiting >= self._limits.rows:
            return True
        seconds, microseconds = await self._redis.time()
        arrived, _ = entry_position(first[0][0])
        return seconds + microseconds / 1e6 - arrived / 1e3 >= self._limits.every_s

    async def _archive(self, task: str, token: str, state: ArchiveState) -> tuple[ArchiveState, bool]:
        """Write the file announced, or else the next one if it is due."""
        if state.next is None and not await self._has_full_file(task, state):
            return state, False
        with self._store.new_file(task) as written:
            await self._fill(task, written, state)
            if not written.rows:
                return await self._save(task, token, state.model_copy(update={"next": None})), False
            file_range = FileRange(after=state.done, last=written.last, rows=written.rows)
            if state.next not in (None, file_range):
                # Under this lease nobody else trims: an announced range that has changed was changed by hand.
                log.warning("an announced range is not what it was", extra={"task": task})
            state = await self._save(task, token, state.model_copy(update={"next": file_range}))
            path = await asyncio.to_thread(self._store.publish, task, written)
        done = {"done": file_range.last, "next": None, "kept": (*state.kept, file_range)}
        state = await self._save(task, token, state.model_copy(update=done))
        self._metrics.archived(task, file_range.rows)
        log.info("traces archived", extra={"task": task, "file": path, "rows": file_range.rows})
        return state, True

    async def _fill(self, task: str, written: TraceFile, state: ArchiveState) -> None:
        """Read the announced range, or what comes next, a page at a time."""
        most = state.next.rows if state.next else self._limits.rows
        after = state.done
        while written.rows < most:
            page = await self._log.entries_after(task, after, min(_PAGE, most - written.rows))
            if not page:
                break
            await asyncio.to_thread(written.add, page)
            after = page[-1][0]
        await asyncio.to_thread(written.close)

    async def _removable(self, task: str, state: ArchiveState) -> list[FileRange]:
        """Archived ranges that every line has consumed, beyond the number of traces that stay."""
        consumed = min((entry_position(cursor) for cursor in await self._log.cursors(task)), default=(0, 0))
        length = int(await self._redis.xlen(keys.traces_key(task)))
        found = []
        for file_range in state.kept:
            length -= file_range.rows
            if entry_position(file_range.last) > consumed or length < self._limits.keep:
                break
            found.append(file_range)
        return found

    async def _trim(self, task: str, token: str, state: ArchiveState) -> ArchiveState:
        removable = await self._removable(task, state)
        if not removable:
            return state
        milliseconds, number = entry_position(removable[-1].last)
        rest = state.model_copy(update={"kept": state.kept[len(removable) :]})
        return await self._save(task, token, rest, keep_from=f"{milliseconds}-{number + 1}")

    async def _save(self, task: str, token: str, state: ArchiveState, keep_from: str = "") -> ArchiveState:
        redis_keys = [keys.archive_lease_key(task), keys.archive_key(task), keys.traces_key(task)]
        if not await self._step(redis_keys, [token, state.model_dump_json(), keep_from]):
            raise Conflict("the archive's lease was lost; another worker goes on", code="fenced")
        return state
