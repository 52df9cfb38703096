"""Traces as Parquet, and the place where the files lie: a local folder, or any URL that fsspec knows."""

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
    ]
)
"""One row a trace. `id` is its place in the stream; where a text was a conversation, its messages stand beside it."""

_HALF_WRITTEN = ".regrade-"
_TEXTS = ("prompt", "completion")


def row_of(entry_id: str, trace: Trace) -> dict[str, Any]:
    """A trace as a row of `SCHEMA`."""
    row = trace.model_dump(mode="json") | {"id": entry_id}
    for name in _TEXTS:
        value: str | Conversation = getattr(trace, name)
        row[name] = as_text(value)
        row[f"{name}_messages"] = None if isinstance(value, str) else [message.model_dump() for message in value]
    return row


def trace_of(row: dict[str, Any]) -> Trace:
    """The trace that a row was made of."""
    messages = {name: row[f"{name}_messages"] for name in _TEXTS}
    told = {name: found for name, found in messages.items() if found is not None}
    return Trace.model_validate({name: row[name] for name in Trace.model_fields} | told)


class TraceFile:
    """A Parquet file being written, a page of traces at a time: no more than a page is in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.first = self.last = ""
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def add(self, page: Sequence[tuple[str, Trace]]) -> None:
        """Write a page; blocks."""
        self._writer.write_table(pa.Table.from_pylist([row_of(*entry) for entry in page], schema=SCHEMA))
        self.first = self.first or page[0][0]
        self.last = page[-1][0]
        self.rows += len(page)

    def end(self) -> None:
        """Write no more; does nothing the second time."""
        self._writer.close()

    def close(self) -> None:
        """Finish the file; on disk when this returns."""
        self.end()
        with self.path.open("rb+") as written:
            os.fsync(written.fileno())


class ArchiveStore:
    """Where archive files lie. All of it blocks: call it in a thread."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` or `ImportError` for a URL that fsspec can't serve."""
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = isinstance(self._fs, LocalFileSystem)

    @contextmanager
    def new_file(self, task: str) -> Iterator[TraceFile]:
        """A file to write to; what is not published is gone afterwards.

        Beside its place where that is local, so that publishing is a move within one file system.
        """
        folder = Path(self._folder(task)) if self._local else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_HALF_WRITTEN, suffix=".parquet", dir=folder)
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
        """Put a closed file where it belongs, whole or not at all, over an equal one if there is one."""
        path = f"{self._folder(task)}/{written.first}_{written.last}.parquet"
        if self._local:
            written.path.chmod(0o644)
            written.path.replace(path)
            _sync_folder(Path(path).parent)
        else:
            self._fs.put_file(str(written.path), path)
        return path

    def tidy(self, task: str) -> None:
        """Remove what killed workers left half written; only for the holder of the archive's lease."""
        folder = Path(self._folder(task))
        if self._local and folder.is_dir():
            for path in folder.glob(f"{_HALF_WRITTEN}*"):
                path.unlink(missing_ok=True)

    def _folder(self, task: str) -> str:
        return f"{self._root}/{task}"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
