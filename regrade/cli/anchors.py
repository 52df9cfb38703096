"""`regrade anchors`: pairs of your own for the gate to measure on."""

from pathlib import Path
from typing import Annotated

import typer

from regrade.cli.connection import DEFAULT_META_URL, By, Key, MetaUrl, Reason, Task, connect, console, present
from regrade.contracts import AnchorsAnswer, ImportAnchors, LabelledPair

app = typer.Typer(help="Look after the cases that the gate measures on.", no_args_is_help=True)


@app.callback()
def anchors() -> None:
    """Cases that the gate measures on."""


@app.command("import")
def import_pairs(
    task: Task,
    file: Annotated[
        Path, typer.Argument(help="JSONL of {prompt, better, worse} and perhaps a reference, as a person has judged.")
    ],
    reason: Reason,
    by: By = "operator",
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Add labelled pairs to a task's anchors. The gate counts its decisions anew on twice as many originals."""
    with connect(meta_url, key) as client:
        lines = present(file).read_text(encoding="utf-8").split("\n")
        pairs = tuple(LabelledPair.model_validate_json(line) for line in lines if line.strip())
        wanted = ImportAnchors(pairs=pairs, by=by, reason=reason)
        answer = client.call("POST", f"/anchors/{task}", AnchorsAnswer, json=wanted.model_dump(mode="json"))
    console.print(
        f"{answer.pairs} pairs; anchors {answer.version}: {answer.originals} originals, {answer.cases} items a rubric",
        soft_wrap=True,
    )
