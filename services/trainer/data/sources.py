"""Rows, one at a time, from files of this machine, the Hugging Face hub, or a generator of problems."""

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
_ROWS_AT_ONCE = 256
_BLOCK = 1_024
_BLOCKS_A_SEED = 1_000_000


class SourceError(ValueError):
    """A source that cannot be read."""


def rows_of(source: str, *, subset: str | None = None, split: str = "train", seed: int = 0) -> Iterator[Row]:
    """The rows of a file, a folder, a dataset of the hub, or `reasoning-gym:<dataset>`, which has no end.

    Raises `SourceError`.
    """
    if source.startswith(GENERATED):
        return _generated(source.removeprefix(GENERATED), seed)
    if Path(source).exists():
        return _local(Path(source))
    if source.startswith((".", "/", "~")) or Path(source).suffix in _READERS:
        raise SourceError(f"no file {source}")
    return _hub(source, subset, split)


def shuffled(items: Iterable[T], seed: int, buffer: int) -> Iterator[T]:
    """In an order drawn by `seed`: of `buffer` items held at a time one is given, and the next takes its place."""
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
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
        files = sorted(file for file in path.rglob("*") if file.suffix in _READERS)
        if not files:
            raise SourceError(f"{path} holds no file that ends in {', '.join(_READERS)}")
        return (row for file in files for row in _READERS[file.suffix](file))
    if path.suffix not in _READERS:
        raise SourceError(f"{path}: a file ends in {', '.join(_READERS)}")
    return _READERS[path.suffix](path)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(line, f"{path}, line {number}")


def _json(path: Path) -> Iterator[Row]:
    """A file of one object, as MATH has one a problem, or of a list of them."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        yield from (_object(json.dumps(row), str(path)) for row in json.loads(text))
    else:
        yield _object(text, str(path))


def _object(text: str, where: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from error
    if not isinstance(row, dict):
        raise SourceError(f"{where}: a row is an object")
    return row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from ({"prompt": line.rstrip("\n")} for line in file)


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".wp_source": _lines,
}


def _hub(name: str, subset: str | None, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, subset, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise SourceError(f"{name} is no file, and the hub did not give it: {error}") from error


def _generated(name: str, seed: int) -> Iterator[Row]:
    import reasoning_gym

    for block in count():
        try:
            entries = reasoning_gym.create_dataset(name, size=_BLOCK, seed=seed * _BLOCKS_A_SEED + block)
        except ValueError as error:
            raise SourceError(f"reasoning-gym: {error}") from error
        for entry in entries:
            yield {"question": entry["question"], "answer": entry["answer"], "source": name, "entry": entry}
