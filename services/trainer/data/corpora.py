"""The corpora of the paper's four tasks in their own formats, and anybody's dataset by a mapping of columns."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from datasets import Dataset
from pydantic import BaseModel, ConfigDict, Field

from regrade.tasks import TaskPack
from services.kit.text.math_equal import boxed
from services.trainer.data.mapping import Columns, Example, Reading
from services.trainer.data.scopes import Clusters
from services.trainer.data.sources import GENERATED, Row, SourceError, rows_of, shuffled

SAMPLES = "samples"
_TAG = re.compile(r"^\s*\[\s*[A-Z]{2,3}\s*\]\s*")


class Corpus(NamedTuple):
    """Where a corpus is on the hub ("" where it comes as files alone), its columns, and what its rows need first."""

    hub: str
    columns: Columns
    prepare: Callable[[Row], Row] = dict


def _without_tag(row: Row) -> Row:
    """A writing prompt without the tag of its forum, `[ WP ]`."""
    return row | {"prompt": _TAG.sub("", str(row.get("prompt") or ""))}


def _with_answer(row: Row) -> Row:
    """A problem of MATH with the boxed answer of its solution."""
    return row | {"answer": boxed(str(row.get("solution") or ""))}


CORPORA: dict[str, Corpus] = {
    # Reddit WritingPrompts: `train.wp_source` of the original, or {prompt, story} on the hub.
    "writing_prompts": Corpus("euclaise/writingprompts", Columns(prompt="prompt", min_chars=20), _without_tag),
    # BillSum: us_train_data_final_OFFICIAL.jsonl, or the hub's Parquet: {text, summary, title}.
    "billsum": Corpus("FiscalNote/billsum", Columns(prompt="text", reference="summary")),
    # Scruples anecdotes: train.scruples-anecdotes.jsonl of the release of its authors.
    "scruples": Corpus(
        "",
        Columns(prompt="{title}\n\n{text}", reference="binarized_label", values={"RIGHT": "right", "WRONG": "wrong"}),
    ),
    # MATH: a JSON file a problem, {problem, level, type, solution}, or the same columns on the hub.
    "math": Corpus(
        "DigitalLearningGmbH/MATH-lighteval", Columns(prompt="problem", reference="answer", scope="type"), _with_answer
    ),
}
_OF_GENERATED = Columns(prompt="question", reference="answer")


class DataSettings(BaseModel):
    """What a run is trained or measured on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        SAMPLES,
        description="samples (of the task pack), writing_prompts, billsum, scruples, math, reasoning-gym:<dataset>, "
        "a file or folder (.jsonl, .json, .parquet, .csv), or a dataset of the hub.",
    )
    path: str = Field("", description="File or folder of a named corpus; empty: the hub.")
    subset: str | None = Field(None, description="Configuration of a dataset of the hub.")
    split: str = Field("train", description="Split of a dataset of the hub.")
    columns: Columns | None = Field(None, description="Which columns are what; a named corpus knows its own.")
    limit: int = Field(20_000, ge=1, description="Examples taken at most.")
    skip: int = Field(0, ge=0, description="Examples left out first, in the seeded order: what another run takes.")
    buffer: int = Field(10_000, ge=1, description="Rows held for shuffling.")
    clusters: str = Field("", description="File of `scopes fit`: it puts each prompt into a scope.")


def examples(settings: DataSettings, pack: TaskPack, seed: int) -> list[Example]:
    """The examples of a run in their seeded order, prompts in the task's template. Raises `SourceError`."""
    if settings.source == SAMPLES:
        known = [Example(p.prompt, p.reference, p.scope) for p in pack.prompts]
        taken = list(islice(shuffled(known, seed, len(known) or 1), settings.skip, settings.skip + settings.limit))
    else:
        found = _seeded(settings, seed)
        taken = [
            e._replace(prompt=pack.for_policy(e.prompt))
            for e in islice(found, settings.skip, settings.skip + settings.limit)
        ]
    if not taken:
        raise SourceError(f"{settings.source}: no example is left")
    clusters = Clusters.load(settings.clusters) if settings.clusters else None
    return [clusters.place(example) for example in taken] if clusters else taken


def _seeded(settings: DataSettings, seed: int) -> Iterator[Example]:
    rows, columns = opened(settings, seed)
    found = Reading(columns).examples(rows)
    return found if settings.source.startswith(GENERATED) else shuffled(found, seed, settings.buffer)


def opened(settings: DataSettings, seed: int) -> tuple[Iterable[Row], Columns]:
    """The rows of a source as they come, and its columns. Raises `SourceError`."""
    corpus = CORPORA.get(settings.source)
    if corpus is None:
        known = _OF_GENERATED if settings.source.startswith(GENERATED) else Columns()
        rows = rows_of(settings.source, subset=settings.subset, split=settings.split, seed=seed)
        return rows, settings.columns or known
    where = settings.path or corpus.hub
    if not where:
        raise SourceError(f"{settings.source} comes as files alone: set its path")
    rows = rows_of(where, subset=settings.subset, split=settings.split, seed=seed)
    return map(corpus.prepare, rows), settings.columns or corpus.columns


def training_prompts(found: list[Example], *, scopes: bool = True) -> Dataset:
    """Examples as a dataset TRL takes: `prompt`, a list of one user turn; `reference` and `scope` where there are."""
    rows = [
        {
            "prompt": [{"role": "user", "content": example.prompt}],
            "reference": example.reference,
            "scope": example.scope if scopes else None,
        }
        for example in found
    ]
    return Dataset.from_list(rows)
