"""`regrade anchors`: import labelled pairs."""

from pathlib import Path
from typing import Annotated

import typer

from regrade.cli.connection import (
    DEFAULT_META_URL,
    ByOption,
    KeyOption,
    MetaUrlOption,
    ReasonOption,
    TaskArgument,
    connect,
    read_jsonl,
)
from regrade.cli.output import print_text
from regrade.contracts import AnchorsResponse, ImportAnchors, LabelledPair

_EXAMPLE = '{"prompt": "Why trees?", "better": "They give shade and hold water.", "worse": "Trees."}'

_HELP = """Anchors: completions whose right order is known, which the gate tests candidates on.

Example: regrade anchors import essay_writing pairs.jsonl --reason "our graders"
"""

app = typer.Typer(help=_HELP)


@app.callback(no_args_is_help=True)
def anchors() -> None:
    """Keep `import` a subcommand; typer would drop the name of a group's only command."""


@app.command("import")
def import_pairs(
    task: TaskArgument,
    file: Annotated[
        Path, typer.Argument(help="JSONL; each line has prompt, better, worse and, if checks need it, reference.")
    ],
    reason: ReasonOption,
    by: ByOption = "operator",
    meta_url: MetaUrlOption = DEFAULT_META_URL,
    key: KeyOption = "",
) -> None:
    """Add pairs that people have ranked to a task's anchors.

    The gate's error budget is reset once the originals have doubled.

    Example: regrade anchors import essay_writing pairs.jsonl --reason "our graders"
    """
    pairs = read_jsonl(file, LabelledPair, _EXAMPLE)
    with connect(meta_url, key) as client:
        body = ImportAnchors(pairs=tuple(pairs), by=by, reason=reason)
        answer = client.call("POST", f"/anchors/{task}", AnchorsResponse, json=body)
    print_text(
        f"{answer.pairs} pairs; anchors {answer.version}: {answer.originals} originals, {answer.cases} items a rubric"
    )
