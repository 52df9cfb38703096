"""What the spool puts on disk: folders that one process at a time may write, segments of checksummed lines.

A line is `length crc32 json`. A line torn by a crash, or damaged since, fails its check and is skipped;
the ones after it still read.
"""

import fcntl
import json
import logging
import os
import re
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

_LOCK = "lock"
_SUFFIX = ".seg"
_NAME = re.compile("[0-9a-f]{32}")


class Entry(NamedTuple):
    """One item's outcome and trace (JSON; "" for no trace) on their way to Redis.

    `base` is the item's identity but for the rubric; `rubric` what it was scored under, as a pin holds it.
    `pin` is the key of its pin ("" for none), `made_up` whether this replica chose what that holds, `ttl_s`
    how long it is kept. `time` is Unix seconds.
    """

    task: str
    lineage: str
    base: str
    rubric: str
    pin: str
    made_up: bool
    ttl_s: int
    outcome: str
    trace: str
    time: float

    @property
    def key(self) -> tuple[str, str]:
        """What makes two entries the same item."""
        return self.task, self.base


class StoredRubric(NamedTuple):
    """A rubric's JSON, so that a segment can be gone on from without Redis."""

    task: str
    rubric: str


Line = Entry | StoredRubric


def encode(line: Line) -> bytes:
    """A line of a segment."""
    kind = "item" if isinstance(line, Entry) else "rubric"
    payload = json.dumps({"kind": kind} | line._asdict(), separators=(",", ":")).encode()
    return b"%d %08x %s\n" % (len(payload), zlib.crc32(payload), payload)


def read_lines(path: Path) -> Iterator[Line]:
    """The good lines of a segment, in order; what is torn or damaged is logged and left out."""
    with path.open("rb") as segment:
        for number, raw in enumerate(segment, 1):
            line = _decode(raw)
            if line is None:
                log.error("a line of the spool is torn or damaged", extra={"segment": str(path), "line": number})
            else:
                yield line


def _decode(raw: bytes) -> Line | None:
    length, _, rest = raw.partition(b" ")
    checksum, _, payload = rest.partition(b" ")
    if not payload.endswith(b"\n"):
        return None
    payload = payload[:-1]
    if length != b"%d" % len(payload) or checksum != b"%08x" % zlib.crc32(payload):
        return None
    fields: dict[str, Any] = json.loads(payload)
    return Entry(**fields) if fields.pop("kind") == "item" else StoredRubric(**fields)


class Folder:
    """A folder that belongs to whoever holds its lock: this process until `release`, anybody once it has died."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, root: Path) -> "Folder":
        """A new folder of this process's own."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = root / uuid.uuid4().hex
            path.mkdir(mode=0o700)
            lock = _take_lock(path)
            if lock is not None:
                return cls(path, lock)

    @classmethod
    def orphans(cls, root: Path) -> "Iterator[Folder]":
        """Folders whose process has died, taken over one by one."""
        for path in sorted(root.iterdir()):
            lock = _take_lock(path) if _NAME.fullmatch(path.name) else None
            if lock is not None:
                yield cls(path, lock)

    def segments(self) -> list[Path]:
        """Its segments, oldest first."""
        return sorted(self.path.glob(f"*{_SUFFIX}"))

    def open_segment(self, number: int) -> tuple[Path, int]:
        """A new segment and its descriptor; the folder's entry for it is on disk."""
        path = self.path / f"{number:012d}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        _sync_folder(self.path)
        return path, descriptor

    def remove_if_empty(self) -> bool:
        """Remove and release a folder without segments; whether it was one."""
        if self.segments():
            return False
        (self.path / _LOCK).unlink(missing_ok=True)
        self.release()
        try:
            self.path.rmdir()
        except OSError as error:
            log.warning("an empty spool folder stays", extra={"folder": str(self.path), "detail": str(error)})
        return True

    def release(self) -> None:
        """Leave it to whoever takes it over."""
        os.close(self._lock)


def append(descriptor: int, lines: bytes, *, fsync: bool) -> None:
    """Write lines whole, or leave the segment as it was. Raises `OSError`."""
    before = os.fstat(descriptor).st_size
    rest = memoryview(lines)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if fsync:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def _take_lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock; None when another process does, or the folder has gone meanwhile."""
    path = folder / _LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(lock).st_ino:
            return lock
    except OSError:
        log.debug("a spool folder is in use", extra={"folder": str(folder)})
    os.close(lock)
    return None


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
