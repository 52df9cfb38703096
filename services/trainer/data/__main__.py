"""`python -m services.trainer.data`: preview how a mapping reads a dataset, and fit scopes."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from regrade.tasks import BrokenTaskError, UnknownTaskError, available_tasks, load_pack
from services.trainer.data.corpora import SAMPLES, DataSettings, examples, open_source
from services.trainer.data.mapping import Columns, Example, ExampleReader, MappingError
from services.trainer.data.scopes import Clusters
from services.trainer.data.sources import SourceError

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_show_locals=False)
scopes = typer.Typer(help="Scopes of prompts.", no_args_is_help=True)
app.add_typer(scopes, name="scopes")
console = Console()
_PREVIEW_ROWS = 2_000
_PREVIEW_CHARS = 600

Source = Annotated[
    str, typer.Argument(help="samples, a corpus, file, folder, dataset of the hub, or reasoning-gym:<dataset>.")
]
Prompt = Annotated[str, typer.Option(help="Column of the prompt, or a text with {column} slots.")]
Reference = Annotated[str | None, typer.Option(help="Column of the reference.")]
ScopeColumn = Annotated[str | None, typer.Option(help="Column of the scope.")]
Where = Annotated[list[str], typer.Option(help="column=value: keep only rows with this value.")]
PathOption = Annotated[str, typer.Option("--path", help="File or folder of a named corpus.")]
Split = Annotated[str, typer.Option(help="Split of a dataset of the hub.")]
Subset = Annotated[str | None, typer.Option(help="Configuration of a dataset of the hub.")]


def _settings(
    source: str, prompt: str, reference: str | None, scope: str | None, where: list[str], **more: str | None
) -> DataSettings:
    filters = {name: value for name, _, value in (text.partition("=") for text in where)}
    options = {"prompt": prompt, "reference": reference, "scope": scope, "where": filters}
    given = {name: value for name, value in options.items() if value}
    return DataSettings.model_validate(
        {"source": source, "columns": Columns.model_validate(given) if given else None} | more
    )


def _fail(message: str) -> typer.Exit:
    Console(stderr=True).print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
    return typer.Exit(1)


@app.command()
def preview(
    source: Source,
    task: Annotated[str, typer.Option(help="The task whose pack has the samples, for the source `samples`.")] = "",
    prompt: Prompt = "",
    reference: Reference = None,
    scope: ScopeColumn = None,
    where: Where = [],  # noqa: B006 - typer reads it, nothing changes it
    path: PathOption = "",
    subset: Subset = None,
    split: Split = "train",
    count: Annotated[int, typer.Option(min=1, help="Examples to print.")] = 3,
) -> None:
    """Print examples as training reads them, the rows skipped by reason, and the settings for a YAML file.

    Example: python -m services.trainer.data preview mine.jsonl --prompt "{title}: {question}" --reference answer
    """
    settings = _settings(source, prompt, reference, scope, where, path=path, subset=subset, split=split)
    try:
        read, skipped = _samples(task) if source == SAMPLES else _first_examples(settings)
    except (SourceError, MappingError, UnknownTaskError, BrokenTaskError, OSError) as error:
        raise _fail(str(error)) from error
    if not read:
        reasons = "".join(f"; {number} rows skipped, {reason}" for reason, number in skipped.items())
        raise _fail(f"no example in {source}{reasons or ': it has no rows'}")
    for example in read[:count]:
        body = Text(example.prompt[:_PREVIEW_CHARS] + ("…" if len(example.prompt) > _PREVIEW_CHARS else ""))
        subtitle = f"reference: {(example.reference or 'none')[:80]}   scope: {example.scope or 'none'}"
        console.print(Panel(body, subtitle=Text(subtitle)))
    console.print(f"{len(read)} examples of the first {len(read) + skipped.total()} rows")
    for reason, number in skipped.items():
        console.print(f"skipped, {reason}: {number}", markup=False)
    for name, number in Counter(example.scope for example in read if example.scope).most_common(20):
        console.print(f"scope {name}: {number}", markup=False)
    yaml_settings = json.dumps(settings.model_dump(mode="json", exclude_defaults=True))
    console.print(f"data: {yaml_settings}", soft_wrap=True, markup=False, highlight=False)


def _samples(task: str) -> tuple[list[Example], Counter[str]]:
    if not task:
        raise SourceError(
            f"{SAMPLES} are the prompts of a task pack: name it with --task, one of {', '.join(available_tasks())}"
        )
    return [Example(p.prompt, p.reference, p.scope) for p in load_pack(task).prompts], Counter()


def _first_examples(settings: DataSettings) -> tuple[list[Example], Counter[str]]:
    rows, columns = open_source(settings, seed=0)
    reader = ExampleReader(columns)
    return list(reader.examples(islice(rows, _PREVIEW_ROWS))), reader.skipped


@scopes.command()
def fit(
    task: Annotated[str, typer.Argument(help="The task.")],
    source: Source,
    out: Annotated[Path, typer.Option(help="File to write the clusters to.")] = Path("clusters.json"),
    clusters: Annotated[int, typer.Option(min=1, help="Clusters per label; in total if there are no labels.")] = 3,
    prompt: Prompt = "",
    scope: ScopeColumn = None,
    path: PathOption = "",
    limit: Annotated[int, typer.Option(min=1, help="Prompts to cluster.")] = 5_000,
    seed: int = 0,
) -> None:
    """Cluster the prompts of a dataset, separately for each label if it has labels.

    Example: python -m services.trainer.data scopes fit math_reasoning samples --clusters 3 --out clusters.json
    """
    settings = _settings(source, prompt, None, scope, [], path=path).model_copy(update={"limit": limit})
    try:
        prompts = examples(settings, load_pack(task), seed)
    except (SourceError, MappingError, UnknownTaskError, BrokenTaskError) as error:
        raise _fail(str(error)) from error
    fitted = Clusters.fit(prompts, clusters, seed)
    fitted.save(out)
    sizes = Counter(fitted.assign(example).scope for example in prompts)
    for name in fitted.scopes:
        console.print(f"{name}: {sizes[name]} prompts", markup=False)
    console.print(f"written: {out}; in task.toml: scopes = {json.dumps(fitted.scopes)}", soft_wrap=True, markup=False)


@scopes.callback()
def _scopes() -> None:
    """Scopes of prompts."""


if __name__ == "__main__":
    app()
