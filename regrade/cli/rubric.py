"""`regrade rubric`: show, edit, put, diff, history, rollback."""

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
    meta_command,
)
from regrade.cli.cycles import gate_figures
from regrade.cli.groups import ShowGroup
from regrade.cli.output import local_time, print_json, print_notice, print_table, print_text
from regrade.cli.rubric_file import edit_rubric, read_rubric
from regrade.client import DEFAULT_URL
from regrade.contracts import MAIN_LINEAGE, ActiveRubric, EventKind, LineageEvent, RubricDiff
from regrade.errors import RegradeError

_HELP = """Rubrics: show, edit, activate, compare, list and roll back. `regrade rubric TASK` shows the active one.

Example: regrade rubric edit essay_writing --reason "our house style"
"""

app = typer.Typer(cls=ShowGroup, help=_HELP, no_args_is_help=True)

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

    The file may be one that `regrade rubric show` printed and you edited: its digest and version are then ignored.

    Example: regrade rubric put essay_writing mine.json --reason "our house style"
    """
    rubric = read_rubric(file)
    with connect(url, key) as client:
        _print_active(client.put_rubric(task, rubric, by=by, reason=reason, expected=expected))


@app.command()
def edit(
    task: TaskArgument,
    reason: ReasonOption,
    by: ByOption = "operator",
    lineage: LineageOption = MAIN_LINEAGE,
    scope: ScopeOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Open the active rubric in $VISUAL or $EDITOR, and activate what you save. It is recorded as an override.

    Nothing changes if you save no change, or if another rubric became active in the meantime.

    Example: regrade rubric edit essay_writing --reason "our house style"
    """
    with connect(url, key) as client:
        active = client.rubric(task, lineage=lineage, scope=scope)
        rubric, file = edit_rubric(active)
        if rubric.digest == active.digest:
            file.unlink()
            return print_text("nothing changed")
        try:
            answer = client.put_rubric(task, rubric, by=by, reason=reason, expected=active.digest)
        except RegradeError:
            print_notice(f"not activated; your text is in {file}")
            raise
    file.unlink()
    _print_active(answer)


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
