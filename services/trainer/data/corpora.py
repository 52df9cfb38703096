"""The corpora of the paper's four tasks in their own formats, and any other dataset by a mapping of its columns."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from datasets import Dataset
from pydantic import BaseModel, ConfigDict, Field

from regrade.tasks import TaskPack
from services.kit.text.final_answer import final_box
from services.trainer.data.mapping import Columns, Example, ExampleReader
from services.trainer.data.scopes import Clusters
from services.trainer.data.sources import GENERATED, Row, SourceError, read_rows, shuffled

SAMPLES = "samples"
"""The source of the task pack's own sample prompts."""
_SHUFFLE_BUFFER = 10_000
"""Rows in memory while shuffling a stream; a stream is never read to its end first."""
_FORUM_TAG = re.compile(r"^\s*\[\s*[A-Z]{2,3}\s*\]\s*")


class Corpus(NamedTuple):
    """A named corpus: its dataset of the hub ("" when it exists as files only), columns, and a fix applied to rows."""

    hub: str
    columns: Columns
    prepare: Callable[[Row], Row] = dict


def _without_tag(row: Row) -> Row:
    """A writing prompt without its forum tag, such as `[ WP ]`."""
    return row | {"prompt": _FORUM_TAG.sub("", str(row.get("prompt") or ""))}


def _with_answer(row: Row) -> Row:
    """A problem of MATH with the boxed answer of its solution."""
    return row | {"answer": final_box(str(row.get("solution") or ""))}


CORPORA: dict[str, Corpus] = {
    # Reddit WritingPrompts: `train.wp_source` of the original, or {prompt, story} on the hub.
    "writing_prompts": Corpus("euclaise/writingprompts", Columns(prompt="prompt", min_chars=20), _without_tag),
    # BillSum: us_train_data_final_OFFICIAL.jsonl, or the hub's Parquet: {text, summary, title}.
    "billsum": Corpus("FiscalNote/billsum", Columns(prompt="text", reference="summary")),
    # Scruples anecdotes: train.scruples-anecdotes.jsonl of its authors' release.
    "scruples": Corpus(
        "",
        Columns(prompt="{title}\n\n{text}", reference="binarized_label", values={"RIGHT": "right", "WRONG": "wrong"}),
    ),
    # MATH: one JSON file per problem, {problem, level, type, solution}, or the same columns on the hub.
    "math": Corpus(
        "DigitalLearningGmbH/MATH-lighteval", Columns(prompt="problem", reference="answer", scope="type"), _with_answer
    ),
}
_GENERATED_COLUMNS = Columns(prompt="question", reference="answer")


class DataSettings(BaseModel):
    """Which prompts a run is trained or evaluated on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        SAMPLES,
        description="samples (of the task pack), writing_prompts, billsum, scruples, math, reasoning-gym:<dataset>, "
        "a file or folder (.jsonl, .json, .parquet, .csv), or a dataset of the hub.",
    )
    path: str = Field("", description="File or folder of a named corpus; empty: the hub.")
    subset: str | None = Field(None, description="Configuration of a dataset of the hub.")
    split: str = Field("train", description="Split of a dataset of the hub.")
    columns: Columns | None = Field(None, description="Mapping of columns; a named corpus has its own.")
    limit: int = Field(20_000, ge=1, description="Largest number of examples.")
    skip: int = Field(0, ge=0, description="Examples to skip in the seeded order, to hold out another run's examples.")
    clusters: str = Field("", description="File written by `scopes fit`; assigns each prompt to a scope.")


def examples(settings: DataSettings, pack: TaskPack, seed: int) -> list[Example]:
    """The examples of a run in a seeded order, prompts in the task's template.

    Raises `SourceError` when the source cannot be read or has no example left, `MappingError` for a missing column.
    """
    chosen = slice(settings.skip, settings.skip + settings.limit)
    if settings.source == SAMPLES:
        samples = [Example(p.prompt, p.reference, p.scope) for p in pack.prompts]
        selected = list(shuffled(samples, seed, len(samples) or 1))[chosen]
    else:
        stream = islice(_shuffled_examples(settings, seed), chosen.start, chosen.stop)
        selected = [example._replace(prompt=pack.for_policy(example.prompt)) for example in stream]
    if not selected:
        raise SourceError(f"{settings.source}: no example is left after skipping {settings.skip}")
    clusters = Clusters.load(settings.clusters) if settings.clusters else None
    return [clusters.assign(example) for example in selected] if clusters else selected


def _shuffled_examples(settings: DataSettings, seed: int) -> Iterator[Example]:
    rows, columns = open_source(settings, seed)
    stream = ExampleReader(columns).examples(rows)
    return stream if settings.source.startswith(GENERATED) else shuffled(stream, seed, _SHUFFLE_BUFFER)


def open_source(settings: DataSettings, seed: int) -> tuple[Iterable[Row], Columns]:
    """The rows of a source in its own order, and its columns. Raises `SourceError`."""
    corpus = CORPORA.get(settings.source)
    if corpus is None:
        default = _GENERATED_COLUMNS if settings.source.startswith(GENERATED) else Columns()
        rows = read_rows(settings.source, subset=settings.subset, split=settings.split, seed=seed)
        return rows, settings.columns or default
    location = settings.path or corpus.hub
    if not location:
        raise SourceError(f"{settings.source} is not on the hub: set `path` to its file or folder")
    rows = read_rows(location, subset=settings.subset, split=settings.split, seed=seed)
    return map(corpus.prepare, rows), settings.columns or corpus.columns


def training_prompts(prompts: list[Example], *, scopes: bool = True) -> Dataset:
    """A dataset for TRL: `prompt` (a list with one user turn), `reference` and `scope` (may be None)."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": example.prompt}],
                "reference": example.reference,
                "scope": example.scope if scopes else None,
            }
            for example in prompts
        ]
    )
