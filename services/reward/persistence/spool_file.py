"""One SQLite database of a spool, and its rows."""

import os
import sqlite3
import uuid
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from regrade.contracts import Rubric

SUFFIX = ".spool"
_SCHEMA_VERSION = 1
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
        path = root / f"{uuid.uuid4().hex}{SUFFIX}"
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

    def fill(self, size: int) -> None:
        """Write `size` bytes that nobody reads."""
        with self._connection:
            self._connection.execute("CREATE TABLE probe (bytes BLOB)")
            self._connection.execute("INSERT INTO probe VALUES (zeroblob(?))", (size,))

    def close(self, *, remove: bool = False) -> None:
        """Unlock the file; `remove` deletes it first, so that no other process can adopt it."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._connection.close()
        if remove:
            Path(f"{self.path}-wal").unlink(missing_ok=True)
