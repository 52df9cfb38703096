"""The disk spool: outcomes and traces that Redis could not take, kept in SQLite until it has taken them (I5).

Each process writes databases of its own under one folder and locks them while it lives; the databases of processes
that have died are adopted by a living one. A database is deleted once Redis has all of it.
"""

import asyncio
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from regrade.contracts import Rubric
from services.kit.errors import Overloaded, Unavailable
from services.kit.results import ItemResult
from services.kit.store.trace_log import stored_outcome

log = logging.getLogger(__name__)

T = TypeVar("T")

_SUFFIX = ".spool"
_SCHEMA_VERSION = 1
_RETRY_AFTER_S = 30
_BATCH_ENTRIES = 64
_BATCH_BYTES = 4_000_000
"""Bounds of one read for the replay: it stays far below the timeout of the Redis call that follows."""

_SCHEMA = """
CREATE TABLE entries (
    task TEXT NOT NULL, lineage TEXT NOT NULL, base TEXT NOT NULL, rubric TEXT NOT NULL, pin TEXT NOT NULL,
    provisional INTEGER NOT NULL, ttl_s INTEGER NOT NULL, outcome BLOB NOT NULL, trace BLOB NOT NULL,
    time REAL NOT NULL, UNIQUE (task, base)
);
CREATE TABLE rubrics (task TEXT NOT NULL, digest TEXT NOT NULL, rubric BLOB NOT NULL, PRIMARY KEY (task, digest));
"""


class SpoolLimits(NamedTuple):
    """Bytes of entries and rubrics in all, the age in seconds of the oldest entry, and whether a batch is fsynced."""

    max_bytes: int
    max_age_s: float
    fsync: bool


class SpoolEntry(NamedTuple):
    """An item's outcome and trace (JSON; empty for no trace) on their way to Redis.

    `base` is the item's identity without the rubric's digest, `rubric` the pointer it was scored under, `pin` the
    key of its pin ("" for none), `provisional` whether this replica chose what the pin holds, `ttl_s` how long the
    pin is kept, `time` Unix seconds.
    """

    task: str
    lineage: str
    base: str
    rubric: str
    pin: str
    provisional: bool
    ttl_s: int
    outcome: bytes
    trace: bytes
    time: float

    @property
    def size(self) -> int:
        """Bytes that count towards `SpoolLimits.max_bytes`."""
        return len(self.outcome) + len(self.trace)


class AdoptedState(NamedTuple):
    """What adopted databases say of pins and rubrics: one entry a pin, without outcome, and (task, rubric JSON)
    of every rubric they were scored under."""

    pins: list[SpoolEntry]
    rubrics: list[tuple[str, bytes]]


class SpoolFile:
    """One database, locked by this process until `close`. Every method blocks, and may raise `sqlite3.Error`.

    In WAL mode a transaction survives the death of the process; with `synchronous = FULL` a power cut as well.
    """

    def __init__(self, path: Path, *, fsync: bool) -> None:
        """Opens an existing file. Raises `sqlite3.Error`; its code is `SQLITE_BUSY` while another process has it."""
        self.path = path
        uri = f"{path.absolute().as_uri()}?mode=rw"
        self._connection = sqlite3.connect(uri, uri=True, timeout=0.0, check_same_thread=False)
        try:
            # With exclusive locking the first access locks the file until it is closed.
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                version = _SCHEMA_VERSION
                self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {version}; COMMIT;")
            if version != _SCHEMA_VERSION:
                raise sqlite3.NotSupportedError(f"format {version}; this release reads {_SCHEMA_VERSION}")
            (state,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            self._load_figures()
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def create(cls, root: Path, *, fsync: bool) -> "SpoolFile":
        """A new database of this process. Raises `OSError`, `sqlite3.Error`."""
        path = root / f"{uuid.uuid4().hex}{_SUFFIX}"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # the WAL file gets the same mode
        return cls(path, fsync=fsync)

    def _load_figures(self) -> None:
        count, size, oldest = self._connection.execute(
            "SELECT count(*), total(length(outcome) + length(trace)), min(time) FROM entries"
        ).fetchone()
        rubrics = self._connection.execute("SELECT task, digest, length(rubric) FROM rubrics").fetchall()
        self._rubrics = {(task, digest) for task, digest, _ in rubrics}
        self.entries = int(count)
        self.size = int(size) + sum(length for *_, length in rubrics)
        self.oldest = float("inf") if oldest is None else float(oldest)

    def insert(self, entries: Sequence[SpoolEntry], rubrics: Iterable[tuple[str, Rubric]]) -> None:
        """Write all or nothing: new entries, and (task, rubric) for each rubric that is not here yet."""
        new = {
            (task, rubric.digest): (task, rubric.digest, rubric.model_dump_json().encode())
            for task, rubric in rubrics
            if (task, rubric.digest) not in self._rubrics
        }
        with self._connection:
            self._connection.executemany("INSERT INTO rubrics VALUES (?, ?, ?)", new.values())
            self._connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entries)
        self._rubrics |= new.keys()
        self.entries += len(entries)
        self.size += sum(entry.size for entry in entries) + sum(len(row[2]) for row in new.values())
        self.oldest = min([self.oldest, *(entry.time for entry in entries)])

    def outcomes(self, task: str, bases: Collection[str]) -> dict[str, bytes]:
        """The outcomes of those of a task's items that are here, by base."""
        marks = ", ".join("?" * len(bases))
        query = f"SELECT base, outcome FROM entries WHERE task = ? AND base IN ({marks})"  # noqa: S608 - marks only
        return dict(self._connection.execute(query, (task, *bases)).fetchall())

    def state(self) -> AdoptedState:
        """Its pins, oldest first, and its rubrics."""
        pins = self._connection.execute(
            "SELECT task, lineage, '', rubric, pin, provisional, ttl_s, x'', x'', min(time) FROM entries "
            "WHERE pin != '' GROUP BY task, lineage, rubric, pin, provisional ORDER BY min(rowid)"
        )
        rubrics = self._connection.execute("SELECT task, rubric FROM rubrics")
        return AdoptedState([SpoolEntry._make(row) for row in pins], rubrics.fetchall())

    def batch(self, after: int) -> tuple[list[SpoolEntry], int]:
        """The entries after row `after` that fit one replay call, and the row of the last one; none at the end."""
        rows = self._connection.execute(
            "SELECT rowid, * FROM entries WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, _BATCH_ENTRIES)
        )
        batch: list[SpoolEntry] = []
        size = 0
        for rowid, *fields in rows:
            entry = SpoolEntry._make(fields)
            size += entry.size
            if batch and size > _BATCH_BYTES:
                break
            batch.append(entry)
            after = rowid
        return batch, after

    def delete(self, entries: Sequence[SpoolEntry]) -> None:
        """Remove entries."""
        with self._connection:
            items = [(entry.task, entry.base) for entry in entries]
            self._connection.executemany("DELETE FROM entries WHERE task = ? AND base = ?", items)
        self.entries -= len(entries)
        self.size -= sum(entry.size for entry in entries)

    def close(self, *, remove: bool = False) -> None:
        """Unlock the file; `remove` deletes it first, so that no other process can adopt it."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._connection.close()
        if remove:
            Path(f"{self.path}-wal").unlink(missing_ok=True)


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
        """Whether entries are refused: no room, or the oldest entry is too old."""
        if time.monotonic() < self._refuse_until or self.size >= self._limits.max_bytes:
            return True
        oldest = min((file.oldest for file in self._files if file.entries), default=float("inf"))
        return time.time() - oldest > self._limits.max_age_s

    def refuse_if_full(self) -> None:
        """Raises `Overloaded` while entries are refused."""
        if self.full:
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
        self.refuse_if_full()
        if self.size + sum(entry.size for entry in entries) > self._limits.max_bytes:
            self._refuse()
        try:
            if self._own is None:
                self._own = SpoolFile.create(self._root, fsync=self._limits.fsync)
                self._files = (*self._files, self._own)
            self._own.insert(entries, rubrics)
        except (OSError, sqlite3.Error) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                log.error("the disk of the spool is full", extra={"folder": str(self._root)})
                self._refuse()
            self._own = None  # the next batch tries another file
            log.exception("the spool cannot be written")
            raise Unavailable(
                "Redis is unavailable and the spool cannot be written", code="spool_failed", retry_after=_RETRY_AFTER_S
            ) from error

    def _refuse(self) -> None:
        """Refuse entries for a while: a replay or an operator may make room. Raises `Overloaded`."""
        self._refuse_until = time.monotonic() + _RETRY_AFTER_S
        self.refuse_if_full()

    def _adopt(self) -> AdoptedState:
        adopted = AdoptedState([], [])
        own = {file.path for file in self._files}
        for path in sorted(self._root.glob(f"*{_SUFFIX}")):
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
