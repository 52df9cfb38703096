"""Sources of rows, read one at a time: local files, the Hugging Face hub, or generated problems."""

import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Row = dict[str, Any]

GENERATED = "reasoning-gym:"
"""Prefix of a source whose problems are generated."""
_PARQUET_BATCH = 256
_PROBLEMS_PER_BLOCK = 1_024
_BLOCKS_PER_SEED = 1_000_000
"""Blocks of problems have consecutive seeds; this many apart, two runs' seeds share no block."""


class SourceError(ValueError):
    """A source that cannot be read."""


def read_rows(source: str, *, subset: str | None = None, split: str = "train", seed: int = 0) -> Iterator[Row]:
    """The rows of a file, a folder, a dataset of the hub, or `reasoning-gym:<dataset>` (endless).

    Raises `SourceError`.
    """
    if source.startswith(GENERATED):
        return _generated(source.removeprefix(GENERATED), seed)
    if Path(source).exists():
        return _local(Path(source))
    if source.startswith((".", "/", "~")) or Path(source).suffix in READERS:
        raise SourceError(f"no file {source}")
    return _hub(source, subset, split)


def shuffled(items: Iterable[T], seed: int, buffer: int) -> Iterator[T]:
    """The items in a seeded random order, shuffled through a buffer of `buffer` items."""
    rng = random.Random(seed)  # noqa: S311 - reproducible, not a secret
    stream = iter(items)
    held = list(islice(stream, buffer))
    rng.shuffle(held)
    for item in stream:
        at = rng.randrange(len(held))
        held[at], item = item, held[at]
        yield item
    yield from held


def _local(path: Path) -> Iterator[Row]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in READERS)
        if not files:
            raise SourceError(f"{path} holds no file that ends in {', '.join(READERS)}")
        return (row for file in files for row in READERS[file.suffix](file))
    if path.suffix not in READERS:
        raise SourceError(f"{path}: the file name must end in one of {', '.join(READERS)}")
    return READERS[path.suffix](path)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(_parse(line, f"{path}, line {number}"), f"{path}, line {number}")


def _json(path: Path) -> Iterator[Row]:
    """A file with one object (as MATH has one per problem) or a list of objects."""
    content = _parse(path.read_text(encoding="utf-8"), str(path))
    yield from (_object(row, str(path)) for row in (content if isinstance(content, list) else [content]))


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise SourceError(f"{where}: a row must be a JSON object, not {type(row).__name__}")
    return row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
            yield from batch.to_pylist()


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _text_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from ({"prompt": line.rstrip("\n")} for line in file)


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".wp_source": _text_lines,
}
"""The reader of each file format, by file name suffix."""


def _hub(name: str, subset: str | None, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, subset, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise SourceError(f"{name} is no local file and cannot be loaded from the hub: {error}") from error


def _generated(name: str, seed: int) -> Iterator[Row]:
    import reasoning_gym

    for block in count():
        try:
            entries = reasoning_gym.create_dataset(name, size=_PROBLEMS_PER_BLOCK, seed=seed * _BLOCKS_PER_SEED + block)
        except ValueError as error:
            raise SourceError(f"reasoning-gym: {error}") from error
        for entry in entries:
            yield {"question": entry["question"], "answer": entry["answer"], "source": name, "entry": entry}
