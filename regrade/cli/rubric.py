"""`regrade rubric`: put, show, diff, history, rollback."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from regrade.cli.connection import (
    DEFAULT_META_URL,
    DEFAULT_URL,
    By,
    Key,
    Lineage,
    MetaUrl,
    ScopeOption,
    Url,
    connect,
    console,
    fail,
)
from regrade.contracts import MAIN_LINEAGE, EventKind, LineageEvent, PutRubricAnswer, Rubric, RubricDiff

app = typer.Typer(help="Look after rubrics.", no_args_is_help=True)

Task = Annotated[str, typer.Argument(help="The task.")]
Reason = Annotated[str, typer.Option(help="Why; it goes on record.")]
Which = Annotated[str, typer.Argument(help="A version number or a digest.")]


@app.command()
def put(
    task: Task,
    file: Annotated[Path, typer.Argument(help="The rubric as JSON; `regrade schema Rubric` describes it.")],
    reason: Reason,
    by: By = "operator",
    expected: Annotated[str | None, typer.Option(help="Digest believed to be active.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = "",
) -> None:
    """Make a rubric of your own active. Recorded as bootstrap or override, since it passes no gate."""
    if not file.is_file():
        fail(f"no file {file}")
    with connect(url, key) as client:
        rubric = Rubric.model_validate_json(file.read_bytes())
        answer = client.put_rubric(task, rubric, by=by, reason=reason, expected=expected)
    console.print(f"version {answer.version} is active: {answer.digest}", soft_wrap=True)


@app.command()
def show(
    task: Task,
    version: Annotated[int | None, typer.Option(help="A version; the active one if left out.")] = None,
    digest: Annotated[str | None, typer.Option(help="A digest.")] = None,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    url: Url = DEFAULT_URL,
    key: Key = "",
) -> None:
    """Print a rubric as JSON."""
    with connect(url, key) as client:
        rubric = client.rubric(task, version=version, digest=digest, lineage=lineage, scope=scope)
    console.print_json(rubric.model_dump_json())


@app.command()
def diff(
    task: Task,
    before: Which,
    after: Which,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Show what changed between two rubrics."""
    params = _place(lineage, scope) | {"before": before, "after": after}
    with connect(meta_url, key) as client:
        found = client.call("GET", f"/rubrics/{task}/diff", RubricDiff, params=params)
    styles = {"+": "green", "-": "red", "@": "dim"}
    for line in found.text.splitlines():
        console.print(Text(line, style=styles.get(line[:1], "")))


@app.command()
def history(
    task: Task,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """List everything that happened to a task's rubrics, with the gate's figures."""
    with connect(meta_url, key) as client:
        events = client.call("GET", f"/lineage/{task}", list[LineageEvent], params=_place(lineage, scope))
    table = Table("time", "what", "version", "digest", "by", "order", "attacks resisted", "reason")
    for event in events:
        gate = event.gate
        table.add_row(
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time)),
            event.kind.value,
            str(event.version or ""),
            event.digest[:8],
            Text(event.by),
            f"{gate.active.order:.2f} → {gate.candidate.order:.2f}" if gate else "",
            f"{gate.active.attacks_resisted:.2f} → {gate.candidate.attacks_resisted:.2f}" if gate else "",
            Text(event.reason),
        )
    console.print(table)


@app.command()
def rollback(
    task: Task,
    reason: Reason,
    by: By = "operator",
    version: Annotated[int | None, typer.Option(help="The version to return to; else the one before.")] = None,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Go back to an earlier version, at once and on every replica."""
    with connect(meta_url, key) as client:
        expected = _active(client.call("GET", f"/lineage/{task}", list[LineageEvent], params=_place(lineage, scope)))
        body = {"by": by, "reason": reason, "version": version, "expected": expected}
        answer = client.call(
            "POST", f"/rubrics/{task}/rollback", PutRubricAnswer, json=body, params=_place(lineage, scope)
        )
    console.print(f"version {answer.version} is active: {answer.digest}", soft_wrap=True)


def _active(history: list[LineageEvent]) -> str | None:
    changes = (EventKind.ACTIVATED, EventKind.ROLLED_BACK)
    return next((event.digest for event in reversed(history) if event.kind in changes), None)


def _place(lineage: str, scope: str | None) -> dict[str, Any]:
    return {"lineage": lineage} | ({"scope": scope} if scope else {})
