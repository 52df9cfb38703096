"""`regrade rubric`: put, show, diff, history, rollback."""

from pathlib import Path
from typing import Annotated

import typer

from regrade.cli.connection import (
    ByOption,
    JsonOption,
    KeyOption,
    LineageOption,
    MetaService,
    ReasonOption,
    ScopeOption,
    TaskArgument,
    UrlOption,
    connect,
    local_time,
    meta_command,
    print_json,
    print_table,
    print_text,
)
from regrade.cli.cycles import gate_figures
from regrade.client import DEFAULT_URL
from regrade.contracts import MAIN_LINEAGE, ActiveRubric, EventKind, LineageEvent, Rubric, RubricDiff

app = typer.Typer(help="Rubrics: activate, show, compare, list and roll back.", no_args_is_help=True)

_DIFF_STYLES = {"+": "green", "-": "red", "@": "dim"}

VersionArgument = Annotated[str, typer.Argument(help="A version number or a digest.")]


@app.command()
def put(
    task: TaskArgument,
    file: Annotated[Path, typer.Argument(help="The rubric as JSON; `regrade schema Rubric` prints its JSON Schema.")],
    reason: ReasonOption,
    by: ByOption = "operator",
    expected: Annotated[
        str | None, typer.Option(help="Digest that must be active now, else the command fails.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Activate a rubric of your own. It passes no gate and is recorded as an override.

    Example: regrade rubric put essay_writing mine.json --reason "our house style"
    """
    with connect(url, key) as client:
        rubric = Rubric.model_validate_json(file.read_bytes())
        _print_active(client.put_rubric(task, rubric, by=by, reason=reason, expected=expected))


@app.command()
def show(
    task: TaskArgument,
    version: Annotated[int | None, typer.Option(help="Version to show; default: the active one.")] = None,
    digest: Annotated[str | None, typer.Option(help="Digest to show.")] = None,
    lineage: LineageOption = MAIN_LINEAGE,
    scope: ScopeOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Print a rubric as JSON.

    Example: regrade rubric show essay_writing --version 1
    """
    with connect(url, key) as client:
        print_json(client.rubric(task, version=version, digest=digest, lineage=lineage, scope=scope))


@app.command()
@meta_command
def diff(meta: MetaService, task: TaskArgument, before: VersionArgument, after: VersionArgument) -> None:
    """Compare two rubrics.

    Example: regrade rubric diff essay_writing 1 2
    """
    for line in meta.get(f"/rubrics/{task}/diff", RubricDiff, before=before, after=after).text.splitlines():
        print_text(line, style=_DIFF_STYLES.get(line[:1], ""))


@app.command()
@meta_command
def history(
    meta: MetaService,
    task: TaskArgument,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Number of events.")] = 200,
    before: Annotated[str | None, typer.Option(help="Only events before this id (see --json).")] = None,
    as_json: JsonOption = False,
) -> None:
    """List what happened to a task's rubrics, oldest first, with the gate's figures (active → candidate).

    Example: regrade rubric history essay_writing
    """
    events = meta.get(f"/lineage/{task}", list[LineageEvent], limit=limit, before=before)
    if as_json:
        return print_json(events)
    rows = []
    for event in events:
        rubric = (event.kind.value, event.version, event.digest[:8])
        rows.append((local_time(event.time), *rubric, event.by, *gate_figures(event), event.reason))
    print_table(("time", "event", "version", "digest", "by", "order", "attacks resisted", "reason"), rows)


@app.command()
@meta_command
def rollback(
    meta: MetaService,
    task: TaskArgument,
    reason: ReasonOption,
    by: ByOption = "operator",
    version: Annotated[int | None, typer.Option(help="Version to return to; default: the previous one.")] = None,
) -> None:
    """Activate an earlier version again, at once and on every replica.

    Example: regrade rubric rollback essay_writing --reason "too strict"
    """
    # Naming the active rubric makes a retry harmless: if the first try's response was lost, the second one conflicts.
    expected = _active_digest(meta.get(f"/lineage/{task}", list[LineageEvent]))
    path = f"/rubrics/{task}/rollback"
    _print_active(meta.post(path, ActiveRubric, by=by, reason=reason, version=version, expected=expected))


def _print_active(answer: ActiveRubric) -> None:
    print_text(f"version {answer.version} is active: {answer.digest}")


def _active_digest(history: list[LineageEvent]) -> str | None:
    changes = (EventKind.ACTIVATED, EventKind.ROLLED_BACK)
    return next((event.digest for event in reversed(history) if event.kind in changes), None)
