"""The disk spool: outcomes and traces that Redis could not take, until it has taken them (I5).

Each process writes into a folder of its own under one root and takes over the folders of processes that have
died. What is in it is known in process by item, so that a retry is answered from it.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from regrade.contracts import Rubric
from services.kit.errors import Overloaded, Unavailable
from services.kit.results import ItemResult
from services.kit.store.trace_log import stored_outcome
from services.reward.persistence import spool_segments as files
from services.reward.persistence.spool_segments import Entry, Folder, Line, StoredRubric
from services.reward.settings import RewardSettings

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 30


class Limits(NamedTuple):
    """Bounds of a spool: bytes in all and a segment, age in seconds of the oldest entry; whether a batch is fsynced."""

    max_bytes: int
    max_age_s: float
    segment_bytes: int
    fsync: bool


@dataclass(slots=True, eq=False)
class Segment:
    """A file of the spool, and which items of it Redis has not acknowledged yet."""

    folder: Folder
    path: Path
    size: int = 0
    oldest: float = float("inf")
    pending: set[tuple[str, str]] = field(default_factory=set)


class _Held(NamedTuple):
    outcome: str
    segment: Segment


class _Writer(NamedTuple):
    """The segment that is written to, its descriptor, and the rubrics that stand in it."""

    segment: Segment
    descriptor: int
    rubrics: set[tuple[str, str]]


def open_spool(settings: RewardSettings) -> "Spool | None":
    """The spool a service is set to have. Raises `OSError` when its folder cannot be written."""
    if not settings.spool_dir:
        return None
    limits = Limits(
        max_bytes=settings.spool_max_bytes,
        max_age_s=settings.spool_max_age_s,
        segment_bytes=settings.spool_segment_bytes,
        fsync=settings.spool_fsync,
    )
    return Spool(Path(settings.spool_dir), limits)


class Spool:
    """Append-only segments under `root`. Writes go one after the other; reading and writing run off the loop."""

    def __init__(self, root: Path, limits: Limits) -> None:
        """Takes a folder. Raises `OSError` when `root` cannot be written."""
        self._root = root
        self._limits = limits
        self._own = Folder.create(root)
        self._adopted: list[Folder] = []
        self._segments: list[Segment] = []
        self._index: dict[tuple[str, str], _Held] = {}
        self._writer: _Writer | None = None
        self._written = 0
        self._no_room = False
        self._lock = asyncio.Lock()

    @property
    def bytes(self) -> int:
        """Size of all segments."""
        return sum(segment.size for segment in self._segments)

    @property
    def empty(self) -> bool:
        """Whether it has no segment at all."""
        return not self._segments

    @property
    def entries(self) -> int:
        """Items that Redis has not acknowledged."""
        return len(self._index)

    @property
    def full(self) -> bool:
        """Whether entries are refused: no room, or what is there is too old."""
        oldest = min((segment.oldest for segment in self._segments), default=float("inf"))
        return self._no_room or self.bytes >= self._limits.max_bytes or time.time() - oldest > self._limits.max_age_s

    def held(self, task: str, base: str) -> ItemResult | None:
        """The outcome of an item that is in the spool."""
        found = self._index.get((task, base))
        return stored_outcome(found.outcome) if found is not None else None

    def refuse_if_full(self) -> None:
        """Raises `Overloaded` while entries are refused."""
        if self.full:
            raise Overloaded("the spool for the Redis outage is full", code="spool_full", retry_after=_RETRY_AFTER_S)

    async def write(self, entries: Sequence[Entry], rubrics: Iterable[tuple[str, Rubric]]) -> list[str]:
        """Spool entries, and (task, rubric) for each of `rubrics` that is not in the segment yet; on disk on return.

        Per entry "" when it was written, else the outcome that is held for its item. Raises `Overloaded`
        (full) or `Unavailable` (the disk fails); then nothing of the batch counts.
        """
        # a caller that goes away must not leave the next one to write beside the thread
        return await asyncio.shield(asyncio.create_task(self._write(entries, list(rubrics))))

    async def _write(self, entries: Sequence[Entry], rubrics: list[tuple[str, Rubric]]) -> list[str]:
        async with self._lock:
            replies: list[str] = []
            fresh: dict[tuple[str, str], Entry] = {}
            for entry in entries:
                earlier = self._index.get(entry.key) or fresh.get(entry.key)
                replies.append(earlier.outcome if earlier is not None else "")
                if earlier is None:
                    fresh[entry.key] = entry
            if fresh:
                await self._put_on_disk(list(fresh.values()), rubrics)
            return replies

    async def _put_on_disk(self, entries: list[Entry], rubrics: list[tuple[str, Rubric]]) -> None:
        self.refuse_if_full()
        lines = b"".join(map(files.encode, entries))
        writer = self._writer
        if writer is not None and writer.segment.size + len(lines) > self._limits.segment_bytes:
            self._seal()
            writer = None
        new = [(task, rubric) for task, rubric in rubrics if not writer or (task, rubric.digest) not in writer.rubrics]
        lines = b"".join(files.encode(StoredRubric(task, rubric.model_dump_json())) for task, rubric in new) + lines
        if self.bytes + len(lines) > self._limits.max_bytes:
            self._no_room = True
            self.refuse_if_full()
        try:
            current = writer if writer is not None else await asyncio.to_thread(self._open)
            await asyncio.to_thread(files.append, current.descriptor, lines, fsync=self._limits.fsync)
        except OSError as error:
            self._seal()
            log.exception("the spool cannot be written")
            raise Unavailable(
                "Redis is away and the spool cannot be written", code="spool_failed", retry_after=_RETRY_AFTER_S
            ) from error
        current.rubrics.update((task, rubric.digest) for task, rubric in new)
        current.segment.size += len(lines)
        self._note(current.segment, entries)

    def _open(self) -> _Writer:
        self._written += 1
        path, descriptor = self._own.open_segment(self._written)
        self._writer = _Writer(Segment(self._own, path), descriptor, set())
        self._segments.append(self._writer.segment)
        return self._writer

    def _note(self, segment: Segment, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.key not in self._index:
                self._index[entry.key] = _Held(entry.outcome, segment)
                segment.pending.add(entry.key)
                segment.oldest = min(segment.oldest, entry.time)

    def _seal(self) -> None:
        if self._writer is not None:
            os.close(self._writer.descriptor)
            self._writer = None

    async def adopt(self) -> list[Line]:
        """Take over the folders of processes that have died; what stands in them, in order."""
        async with self._lock:
            loaded = await asyncio.to_thread(self._load_orphans)
            for segment, lines in loaded:
                self._segments.append(segment)
                self._note(segment, (line for line in lines if isinstance(line, Entry)))
            self._adopted.extend(dict.fromkeys(segment.folder for segment, _ in loaded))
        return [line for _, lines in loaded for line in lines]

    def _load_orphans(self) -> list[tuple[Segment, list[Line]]]:
        loaded = []
        for folder in Folder.orphans(self._root):
            if folder.remove_if_empty():
                continue
            log.warning("taking over a spool", extra={"folder": str(folder.path)})
            for path in folder.segments():
                try:
                    lines = list(files.read_lines(path))
                except (KeyError, TypeError, ValueError):  # whole, so of another release: for that one to replay
                    kept = path.rename(self._root / f"{folder.path.name}-{path.stem}.unread")
                    log.exception("a segment of the spool is of another format", extra={"kept": str(kept)})
                else:
                    loaded.append((Segment(folder, path, size=path.stat().st_size), lines))
        return loaded

    async def sealed(self) -> list[Segment]:
        """Every segment, oldest first; none of them is written to any more."""
        async with self._lock:
            self._seal()
            return list(self._segments)

    async def pending(self, segment: Segment) -> list[Entry]:
        """The entries of a segment that Redis has not acknowledged."""
        lines = await asyncio.to_thread(lambda: list(files.read_lines(segment.path)))
        return [line for line in lines if isinstance(line, Entry) and line.key in segment.pending]

    def acknowledge(self, segment: Segment, entries: Iterable[Entry]) -> None:
        """Redis has these entries of a segment."""
        for entry in entries:
            segment.pending.discard(entry.key)
            self._index.pop(entry.key, None)

    def drop(self, segment: Segment) -> None:
        """Delete a segment, all of which Redis has acknowledged."""
        assert not segment.pending
        segment.path.unlink()
        self._segments.remove(segment)
        self._no_room = False
        if segment.folder in self._adopted and segment.folder.remove_if_empty():
            self._adopted.remove(segment.folder)

    async def aclose(self) -> None:
        """Leave what is in it to the next process."""
        async with self._lock:
            self._seal()
            for folder in self._adopted:
                folder.release()
            if not self._own.remove_if_empty():
                self._own.release()
