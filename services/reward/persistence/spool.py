"""The disk spool: outcomes and traces that Redis could not take, kept in SQLite until it has taken them (I5).

Each process writes databases of its own under one folder and locks them while it lives; the databases of processes
that have died are adopted by a living one. A database is deleted once Redis has all of it.
"""

import asyncio
import errno
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from regrade.contracts import Rubric
from services.kit.errors import Overloaded, Unavailable
from services.kit.results import ItemResult
from services.kit.store.trace_log import stored_outcome
from services.reward.persistence.spool_file import SUFFIX, AdoptedState, SpoolEntry, SpoolFile

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_AFTER_S = 30
_MIN_PROBE_BYTES = 1_000_000


class SpoolLimits(NamedTuple):
    """Bytes of entries and rubrics in all, the age in seconds of the oldest entry, and whether a batch is fsynced."""

    max_bytes: int
    max_age_s: float
    fsync: bool


def _failed() -> Unavailable:
    return Unavailable(
        "Redis is unavailable and the spool cannot be written", code="spool_failed", retry_after=_RETRY_AFTER_S
    )


def _is_disk_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def open_spool(folder: str, limits: SpoolLimits) -> "Spool | None":
    """The spool in `folder`; None for "". Raises `OSError`, `sqlite3.Error` when the folder cannot be written."""
    return Spool(Path(folder), limits) if folder else None


class Spool:
    """The databases of one process under `root`: the one it writes to, older ones, and adopted ones.

    One thread does all reading and writing, so that operations neither overlap nor block the event loop.
    """

    def __init__(self, root: Path, limits: SpoolLimits) -> None:
        """Creates a database. Raises `OSError`, `sqlite3.Error` when `root` cannot be written."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._own: SpoolFile | None = SpoolFile.create(root, fsync=limits.fsync)
        self._files: tuple[SpoolFile, ...] = (self._own,)
        self._refuse_until = 0.0
        self._failed_bytes = 0
        """Size of the last batch that could not be written; 0 once a write or a probe has succeeded."""

    @property
    def size(self) -> int:
        """Size of the entries and rubrics; the files take up somewhat more."""
        return sum(file.size for file in self._files) if self.entries else 0

    @property
    def entries(self) -> int:
        """Items that Redis has not acknowledged."""
        return sum(file.entries for file in self._files)

    @property
    def full(self) -> bool:
        """Whether no batch should be judged: a write has failed, there is no room, or the oldest entry is too old."""
        return self._failed_bytes > 0 or self._beyond_limits()

    def _beyond_limits(self) -> bool:
        if time.monotonic() < self._refuse_until or self.size >= self._limits.max_bytes:
            return True
        oldest = min((file.oldest for file in self._files if file.entries), default=float("inf"))
        return time.time() - oldest > self._limits.max_age_s

    def refuse_if_full(self) -> None:
        """Raises `Overloaded`, or `Unavailable` after a failed write, so that no judge is paid for a lost outcome."""
        self._refuse_beyond_limits()
        if self._failed_bytes:
            raise _failed()

    async def probe(self) -> None:
        """After a failed write, try one of that size; where it succeeds, the spool takes entries again."""
        if self._failed_bytes:
            await self._run(self._probe)

    def _probe(self) -> None:
        try:
            file = SpoolFile.create(self._root, fsync=self._limits.fsync)
            try:
                file.fill(max(_MIN_PROBE_BYTES, 2 * self._failed_bytes))
            finally:
                file.close(remove=True)
        except (OSError, sqlite3.Error) as error:
            log.info("the spool still cannot be written", extra={"detail": str(error)})
        else:
            log.warning("the spool can be written again")
            self._failed_bytes = 0

    def _refuse_beyond_limits(self) -> None:
        if self._beyond_limits():
            raise Overloaded(
                "Redis is unavailable and the spool is full", code="spool_full", retry_after=_RETRY_AFTER_S
            )

    async def outcomes(self, task: str, bases: Collection[str]) -> dict[str, ItemResult]:
        """The outcomes of those of a task's items that are in the spool, by base."""
        if not self.entries:
            return {}
        stored = await self._run(lambda: self._outcomes(task, bases))
        return {base: stored_outcome(outcome) for base, outcome in stored.items()}

    async def write(self, entries: Sequence[SpoolEntry], rubrics: Iterable[tuple[str, Rubric]]) -> list[bytes]:
        """Write entries of one task, and the (task, rubric) they were scored under; on disk when it returns.

        Per entry b"" when it was written, else the outcome that the spool holds for its item. Raises `Overloaded`
        (no room) or `Unavailable` (the disk fails); nothing of the batch is written then.
        """
        return await self._run(lambda: self._write(entries, rubrics))

    async def adopt(self) -> AdoptedState:
        """Take over the databases of processes that have died; their pins and rubrics."""
        return await self._run(self._adopt)

    async def sealed(self) -> list[SpoolFile]:
        """The databases with entries, oldest first. Later entries go to another one."""
        return await self._run(self._seal)

    async def batch(self, file: SpoolFile, after: int) -> tuple[list[SpoolEntry], int]:
        """See `SpoolFile.batch`."""
        return await self._run(lambda: file.batch(after))

    async def acknowledge(self, file: SpoolFile, entries: Sequence[SpoolEntry]) -> None:
        """Remove entries that Redis has. On a full disk they stay; Redis ignores them when they are replayed again."""
        try:
            await self._run(lambda: file.delete(entries))
        except sqlite3.OperationalError as error:
            log.warning("replayed entries stay in the spool", extra={"file": str(file.path), "detail": str(error)})

    async def drop(self, file: SpoolFile) -> None:
        """Delete a database, all of which Redis has."""
        await self._run(lambda: self._drop(file))

    async def aclose(self) -> None:
        """Unlock the databases and leave their entries to the next process."""
        for file in self._files:
            await self._run(lambda file=file: file.close(remove=not file.entries))  # type: ignore[misc]
        self._thread.shutdown()

    async def _run(self, operation: Callable[[], T]) -> T:
        """Run in the spool's thread; to its end, also when the caller is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, operation))

    def _outcomes(self, task: str, bases: Collection[str]) -> dict[str, bytes]:
        outcomes: dict[str, bytes] = {}
        for file in self._files:
            outcomes = file.outcomes(task, bases) | outcomes
        return outcomes

    def _write(self, entries: Sequence[SpoolEntry], rubrics: Iterable[tuple[str, Rubric]]) -> list[bytes]:
        outcomes = self._outcomes(entries[0].task, [entry.base for entry in entries])
        replies: list[bytes] = []
        new: list[SpoolEntry] = []
        for entry in entries:
            replies.append(outcomes.get(entry.base, b""))
            if entry.base not in outcomes:
                outcomes[entry.base] = entry.outcome
                new.append(entry)
        if new:
            self._insert(new, rubrics)
        return replies

    def _insert(self, entries: list[SpoolEntry], rubrics: Iterable[tuple[str, Rubric]]) -> None:
        self._refuse_beyond_limits()
        size = sum(entry.size for entry in entries)
        if self.size + size > self._limits.max_bytes:
            self._refuse()
        try:
            if self._own is None:
                self._own = SpoolFile.create(self._root, fsync=self._limits.fsync)
                self._files = (*self._files, self._own)
            self._own.insert(entries, rubrics)
            self._failed_bytes = 0
        except (OSError, sqlite3.Error) as error:
            self._failed_bytes = max(1, size)
            if _is_disk_full(error):
                log.error("the disk of the spool is full", extra={"folder": str(self._root)})
                raise Overloaded(
                    "Redis is unavailable and the disk of the spool is full",
                    code="spool_full",
                    retry_after=_RETRY_AFTER_S,
                ) from error
            self._own = None  # the next batch tries another file
            log.exception("the spool cannot be written")
            raise _failed() from error

    def _refuse(self) -> None:
        """Refuse entries for a while: a replay or an operator may make room. Raises `Overloaded`."""
        self._refuse_until = time.monotonic() + _RETRY_AFTER_S
        self._refuse_beyond_limits()

    def _adopt(self) -> AdoptedState:
        adopted = AdoptedState([], [])
        own = {file.path for file in self._files}
        for path in sorted(self._root.glob(f"*{SUFFIX}")):
            file = self._open_orphan(path) if path not in own else None
            if file is not None:
                log.warning("adopting a spool", extra={"file": str(path), "entries": file.entries})
                self._files = (file, *self._files)
                pins, rubrics = file.state()
                adopted.pins.extend(pins)
                adopted.rubrics.extend(rubrics)
        return adopted

    def _open_orphan(self, path: Path) -> SpoolFile | None:
        """The database of a process that has died; None if there is none, or none with entries, to adopt."""
        try:
            if path.stat().st_size == 0:  # its process is about to lock it
                return None
            file = SpoolFile(path, fsync=self._limits.fsync)
        except FileNotFoundError:
            return None
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN):
                self._put_aside(path)
            return None
        if not file.entries:
            file.close(remove=True)
            return None
        return file

    def _put_aside(self, path: Path) -> None:
        """Keep a damaged database, or one of another format, under another name for an operator."""
        log.exception("a spool cannot be read", extra={"kept": f"{path}.unread"})
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{path}.unread{suffix}")

    def _seal(self) -> list[SpoolFile]:
        if self._own is not None and self._own.entries:
            self._own = None
        return [file for file in self._files if file is not self._own]

    def _drop(self, file: SpoolFile) -> None:
        file.close(remove=True)
        self._files = tuple(other for other in self._files if other is not file)
        self._refuse_until = 0.0
