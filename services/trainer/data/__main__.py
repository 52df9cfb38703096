"""`python -m services.trainer.data`: look at what a mapping makes of a dataset, and fit scopes."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from regrade.tasks import BrokenTaskError, UnknownTaskError, load_pack
from services.trainer.data.corpora import DataSettings, examples, opened
from services.trainer.data.mapping import Columns, MappingError, Reading
from services.trainer.data.scopes import Clusters
from services.trainer.data.sources import SourceError

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_show_locals=False)
scopes = typer.Typer(help="Scopes of prompts.", no_args_is_help=True)
app.add_typer(scopes, name="scopes")
console = Console()
_LOOKED_AT = 2_000
_SHOWN_CHARS = 600

Source = Annotated[str, typer.Argument(help="A corpus, file, folder, dataset of the hub, or reasoning-gym:<dataset>.")]
Prompt = Annotated[str, typer.Option(help="Column of the prompt, or a text with {column} slots.")]
Reference = Annotated[str | None, typer.Option(help="Column of the reference.")]
ScopeColumn = Annotated[str | None, typer.Option(help="Column of the scope.")]
Where = Annotated[list[str], typer.Option(help="column=value: only these rows.")]
PathOption = Annotated[str, typer.Option("--path", help="File or folder of a named corpus.")]
Split = Annotated[str, typer.Option(help="Split of a dataset of the hub.")]
Subset = Annotated[str | None, typer.Option(help="Configuration of a dataset of the hub.")]


def _settings(
    source: str, prompt: str, reference: str | None, scope: str | None, where: list[str], **more: str | None
) -> DataSettings:
    kept = {name: value for name, _, value in (text.partition("=") for text in where)}
    told = {"prompt": prompt, "reference": reference, "scope": scope, "where": kept}
    columns = Columns.model_validate({"prompt": "prompt"} | {k: v for k, v in told.items() if v})
    return DataSettings.model_validate({"source": source, "columns": columns if any(told.values()) else None} | more)


def _fail(message: str) -> typer.Exit:
    Console(stderr=True).print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
    return typer.Exit(1)


@app.command()
def preview(
    source: Source,
    prompt: Prompt = "",
    reference: Reference = None,
    scope: ScopeColumn = None,
    where: Where = [],  # noqa: B006 - typer reads it, nothing changes it
    path: PathOption = "",
    subset: Subset = None,
    split: Split = "train",
    count: Annotated[int, typer.Option(min=1, help="Examples shown.")] = 3,
) -> None:
    """Show examples as training would have them, what is left out and why, and the settings to write down."""
    settings = _settings(source, prompt, reference, scope, where, path=path, subset=subset, split=split)
    try:
        rows, columns = opened(settings, seed=0)
        reading = Reading(columns)
        found = list(reading.examples(islice(rows, _LOOKED_AT)))
    except (SourceError, MappingError) as error:
        raise _fail(str(error)) from error
    for example in found[:count]:
        shown = Text(example.prompt[:_SHOWN_CHARS] + ("…" if len(example.prompt) > _SHOWN_CHARS else ""))
        told = f"reference: {(example.reference or 'none')[:80]}   scope: {example.scope or 'none'}"
        console.print(Panel(shown, subtitle=Text(told)))
    console.print(f"{len(found)} examples of the first {len(found) + sum(reading.left_out.values())} rows")
    for why, number in reading.left_out.items():
        console.print(f"left out, {why}: {number}")
    for name, number in Counter(example.scope for example in found if example.scope).most_common(20):
        console.print(f"scope {name}: {number}", markup=False)
    told = json.dumps(settings.model_dump(mode="json", exclude_defaults=True))
    console.print(f"data: {told}", soft_wrap=True, markup=False, highlight=False)


@scopes.command()
def fit(
    task: Annotated[str, typer.Argument(help="The task.")],
    source: Source,
    out: Annotated[Path, typer.Option(help="Where the clusters are written.")] = Path("clusters.json"),
    clusters: Annotated[int, typer.Option(min=1, help="Clusters a label, or in all where there are no labels.")] = 3,
    prompt: Prompt = "",
    scope: ScopeColumn = None,
    path: PathOption = "",
    limit: Annotated[int, typer.Option(min=1, help="Prompts looked at.")] = 5_000,
    seed: int = 0,
) -> None:
    """Cluster the prompts of a dataset, within each label where it has them."""
    settings = _settings(source, prompt, None, scope, [], path=path).model_copy(update={"limit": limit})
    try:
        found = examples(settings, load_pack(task), seed)
    except (SourceError, MappingError, UnknownTaskError, BrokenTaskError) as error:
        raise _fail(str(error)) from error
    fitted = Clusters.fit(found, clusters, seed)
    fitted.save(out)
    sizes = Counter(fitted.place(example).scope for example in found)
    for name in fitted.scopes:
        console.print(f"{name}: {sizes[name]} prompts", markup=False)
    console.print(f"written: {out}; in task.toml: scopes = {json.dumps(fitted.scopes)}", soft_wrap=True, markup=False)


@scopes.callback()
def _scopes() -> None:
    """Scopes of prompts."""


if __name__ == "__main__":
    app()
