"""Archives traces to Parquet, then trims from Redis what every lineage has consumed.

A file is named by the range of trace ids it holds. The range is stored in Redis before the file is published. So after
a crash the next worker writes the same file again or continues behind it, and no trace is lost or archived twice.
"""

import asyncio
import logging
from typing import NamedTuple

from pydantic import ConfigDict, Field
from redis.asyncio import Redis
from redis.exceptions import RedisError

from regrade.contracts.base import TolerantModel
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
_MAX_FILES = 64
"""Files per task and poll, so that one task's backlog does not hold up the others."""


class FileRange(TolerantModel):
    """The traces of one file: ids behind `after`, up to and including `last`."""

    after: str
    last: str
    rows: int


class ArchiveState(TolerantModel):
    """How far a task is archived, stored as JSON with the keys `done`, `next` and `kept`."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    done: str = "0-0"
    """The last archived id."""
    announced: FileRange | None = Field(default=None, alias="next")
    """The range of a file that may not be published yet."""
    untrimmed: tuple[FileRange, ...] = Field(default=(), alias="kept")
    """Archived ranges that are still in Redis, oldest first."""


class ArchiveLimits(NamedTuple):
    """Traces per file, seconds after which a smaller file is written, and traces that stay in Redis."""

    rows: int
    every_s: float
    keep: int

    @classmethod
    def of(cls, settings: MetaRewardSettings) -> "ArchiveLimits":
        return cls(settings.archive_rows, settings.archive_every_s, settings.archive_keep)


class Archiver:
    """Archives and trims every task. Any number of workers may run one: a task's archive lease admits one at a time."""

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
        """Archive every task at each poll until cancelled. An error is logged and counted, and the polling goes on."""
        while True:
            for task in tasks:
                try:
                    await self.archive_due(task)
                except (RedisError, ServiceError) as error:
                    self._metrics.failures.labels(task, type(error).__name__).inc()
                    log.warning("traces could not be archived", exc_info=True, extra={"task": task})
                except Exception:
                    self._metrics.failures.labels(task, "archive").inc()
                    log.exception("traces could not be archived", extra={"task": task})
            await asyncio.sleep(poll_s)

    async def archive_due(self, task: str) -> None:
        """Archive and trim what is due, unless another worker does."""
        if not await self._due(task):
            return
        async with self._leases.hold_archive(task) as token:
            if token is None:
                return
            await asyncio.to_thread(self._store.tidy, task)
            state = await self.state(task)
            for _ in range(_MAX_FILES):
                state, wrote = await self._archive(task, token, state)
                state = await self._trim(task, token, state)
                if not wrote:
                    break

    async def state(self, task: str) -> ArchiveState:
        """How far the task is archived."""
        text = await self._redis.get(keys.archive_key(task))
        return ArchiveState.model_validate_json(text) if text else ArchiveState()

    async def _due(self, task: str) -> bool:
        """Whether there is a file to write or a range to trim; cheap when there is not."""
        state = await self.state(task)
        if state.announced is not None or await self._is_file_due(task, state):
            return True
        return bool(await self._removable(task, state))

    async def _is_file_due(self, task: str, state: ArchiveState) -> bool:
        """Whether there are enough traces for a file, or the oldest is old enough for a smaller one."""
        first = await read_entries(self._redis, keys.traces_key(task), after=state.done, count=1)
        if not first:
            return False
        # The stream holds the untrimmed ranges, which are archived, and the traces that are not.
        length = int(await self._redis.xlen(keys.traces_key(task)))
        unarchived = length - sum(file_range.rows for file_range in state.untrimmed)
        if unarchived >= self._limits.rows:
            return True
        seconds, microseconds = await self._redis.time()
        first_ms, _ = entry_position(first[0][0])
        return seconds + microseconds / 1e6 - first_ms / 1e3 >= self._limits.every_s

    async def _archive(self, task: str, token: str, state: ArchiveState) -> tuple[ArchiveState, bool]:
        """Write the announced file, or the next one if it is due; also whether one was written."""
        if state.announced is None and not await self._is_file_due(task, state):
            return state, False
        with self._store.new_file(task) as written:
            await self._fill(task, written, state)
            if not written.rows:
                return await self._save(task, token, state.model_copy(update={"announced": None})), False
            file_range = FileRange(after=state.done, last=written.last, rows=written.rows)
            if state.announced not in (None, file_range):
                # Only the holder of this lease trims, so someone else has edited the stream.
                log.warning("the traces of an announced range have changed", extra={"task": task})
            state = await self._save(task, token, state.model_copy(update={"announced": file_range}))
            path = await asyncio.to_thread(self._store.publish, task, written)
        done = {"done": file_range.last, "announced": None, "untrimmed": (*state.untrimmed, file_range)}
        state = await self._save(task, token, state.model_copy(update=done))
        self._metrics.archived.labels(task).inc(file_range.rows)
        log.info("traces archived", extra={"task": task, "file": path, "rows": file_range.rows})
        return state, True

    async def _fill(self, task: str, written: TraceFile, state: ArchiveState) -> None:
        """Read the announced range, or the next traces, page by page."""
        limit = state.announced.rows if state.announced else self._limits.rows
        after = state.done
        while written.rows < limit:
            page = await self._log.entries_after(task, after, min(_PAGE, limit - written.rows))
            if not page:
                break
            await asyncio.to_thread(written.add, page)
            after = page[-1][0]
        await asyncio.to_thread(written.close)

    async def _removable(self, task: str, state: ArchiveState) -> list[FileRange]:
        """Archived ranges that every lineage has consumed, beyond the traces that stay."""
        consumed = min((entry_position(cursor) for cursor in await self._log.cursors(task)), default=(0, 0))
        length = int(await self._redis.xlen(keys.traces_key(task)))
        removable = []
        for file_range in state.untrimmed:
            length -= file_range.rows
            if entry_position(file_range.last) > consumed or length < self._limits.keep:
                break
            removable.append(file_range)
        return removable

    async def _trim(self, task: str, token: str, state: ArchiveState) -> ArchiveState:
        removable = await self._removable(task, state)
        if not removable:
            return state
        milliseconds, number = entry_position(removable[-1].last)
        rest = state.model_copy(update={"untrimmed": state.untrimmed[len(removable) :]})
        return await self._save(task, token, rest, keep_from=f"{milliseconds}-{number + 1}")

    async def _save(self, task: str, token: str, state: ArchiveState, keep_from: str = "") -> ArchiveState:
        redis_keys = [keys.archive_lease_key(task), keys.archive_key(task), keys.traces_key(task)]
        if not await self._step(redis_keys, [token, state.model_dump_json(), keep_from]):
            raise Conflict("the archive's lease was lost; another worker continues", code="fenced")
        return state
