"""Traces as Parquet files, in a local folder or at any URL that fsspec supports."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from regrade.contracts import Conversation, Trace, as_text

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_CRITERIA = pa.list_(
    pa.struct([("id", pa.string()), ("score", pa.float64()), ("confidence", pa.float64()), ("rationale", pa.string())])
)
_USAGE = pa.struct(
    [(name, pa.int64()) for name in ("judge_calls", "prompt_tokens", "cached_tokens", "completion_tokens")]
)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("trace_id", "task", "lineage", "scope", "run")),
        pa.field("step", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("group", "item_id", "purpose", "prompt", "completion")),
        pa.field("prompt_messages", _MESSAGES),
        pa.field("completion_messages", _MESSAGES),
        pa.field("reference", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("reward", pa.float64()),
        pa.field("raw", pa.float64()),
        pa.field("criteria", _CRITERIA),
        pa.field("flags", pa.list_(pa.string())),
        pa.field("judge_model", pa.string()),
        pa.field("usage", _USAGE),
        pa.field("latency_ms", pa.float64()),
        pa.field("time", pa.float64()),
        pa.field("metadata", pa.string()),
    ]
)
"""One row per trace. `id` is its stream id; `*_messages` hold a text that was sent as messages; `metadata` is JSON."""

_TEMPORARY_PREFIX = ".regrade-"
_FOLDER_MODE, _FILE_MODE = 0o750, 0o640
"""For this user and its group: traces are what a company's users wrote."""
_TEXTS = ("prompt", "completion")


def row_of(entry_id: str, trace: Trace) -> dict[str, Any]:
    """A trace as a row of `SCHEMA`."""
    row = trace.model_dump(mode="json") | {"id": entry_id, "metadata": json.dumps(trace.metadata)}
    for name in _TEXTS:
        value: str | Conversation = getattr(trace, name)
        row[name] = as_text(value)
        row[f"{name}_messages"] = None if isinstance(value, str) else [message.model_dump() for message in value]
    return row


def trace_of(row: dict[str, Any]) -> Trace:
    """The trace of a row; the inverse of `row_of`."""
    messages = {name: row[f"{name}_messages"] for name in _TEXTS}
    given = {name: value for name, value in messages.items() if value is not None}
    given["metadata"] = json.loads(row.get("metadata") or "{}")  # files of release 0.1 have no such column
    return Trace.model_validate({name: row[name] for name in Trace.model_fields if name in row} | given)


class TraceFile:
    """A Parquet file written page by page, so that only one page of traces is in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.first = self.last = ""
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def add(self, page: Sequence[tuple[str, Trace]]) -> None:
        """Write a page of traces with their ids. Blocks."""
        self._writer.write_table(pa.Table.from_pylist([row_of(*entry) for entry in page], schema=SCHEMA))
        self.first = self.first or page[0][0]
        self.last = page[-1][0]
        self.rows += len(page)

    def end(self) -> None:
        """Close the writer. Repeated calls do nothing."""
        self._writer.close()

    def close(self) -> None:
        """Close the writer and sync the file to disk."""
        self.end()
        with self.path.open("rb+") as written:
            os.fsync(written.fileno())


class ArchiveStore:
    """The archive's files. Every method blocks: call it in a thread."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` or `ImportError` for a URL that fsspec does not support."""
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = isinstance(self._fs, LocalFileSystem)

    @contextmanager
    def new_file(self, task: str) -> Iterator[TraceFile]:
        """A temporary file to write to, deleted afterwards unless it was published.

        For a local archive it lies in the task's folder, so that publishing is an atomic rename.
        """
        folder = Path(self._folder(task)) if self._local else None
        if folder is not None:
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, suffix=".parquet", dir=folder)
        os.close(handle)
        try:
            written = TraceFile(Path(name))
            try:
                yield written
            finally:
                written.end()
        finally:
            Path(name).unlink(missing_ok=True)

    def publish(self, task: str, written: TraceFile) -> str:
        """Move a closed file to its final name, atomically where local; an equal file is replaced."""
        path = f"{self._folder(task)}/{written.first}_{written.last}.parquet"
        if self._local:
            written.path.chmod(_FILE_MODE)
            written.path.replace(path)
            _sync_folder(Path(path).parent)
        else:
            self._fs.put_file(str(written.path), path)
        return path

    def tidy(self, task: str) -> None:
        """Delete temporary files of killed workers. Only the holder of the archive's lease may call it."""
        folder = Path(self._folder(task))
        if self._local and folder.is_dir():
            for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
                path.unlink(missing_ok=True)

    def _folder(self, task: str) -> str:
        return f"{self._root}/{task}"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
