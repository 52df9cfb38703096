"""`regrade rubric`: put, show, diff, history, rollback."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from regrade.cli.connection import (
    DEFAULT_META_URL,
    DEFAULT_URL,
    AsJson,
    By,
    Key,
    Lineage,
    MetaUrl,
    Reason,
    ScopeOption,
    Task,
    Url,
    clock,
    connect,
    console,
    place,
    present,
    print_json,
    words,
)
from regrade.contracts import MAIN_LINEAGE, EventKind, LineageEvent, PutRubricAnswer, Rubric, RubricDiff

app = typer.Typer(help="Look after rubrics.", no_args_is_help=True)

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
    with connect(url, key) as client:
        rubric = Rubric.model_validate_json(present(file).read_bytes())
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
    params = place(lineage, scope) | {"before": before, "after": after}
    with connect(meta_url, key) as client:
        found = client.call("GET", f"/rubrics/{task}/diff", RubricDiff, params=params)
    styles = {"+": "green", "-": "red", "@": "dim"}
    for line in found.text.splitlines():
        console.print(words(line, style=styles.get(line[:1], "")))


@app.command()
def history(
    task: Task,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="So many of the newest events.")] = 200,
    before: Annotated[str | None, typer.Option(help="Older ones than this event (its id, with --json).")] = None,
    as_json: AsJson = False,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """List what happened to a task's rubrics, oldest first, with the gate's figures (active → candidate)."""
    asked = place(lineage, scope) | {"limit": limit} | ({"before": before} if before else {})
    with connect(meta_url, key) as client:
        events = client.call("GET", f"/lineage/{task}", list[LineageEvent], params=asked)
    if as_json:
        print_json(events)
        return
    table = Table("time", "what", "version", "digest", "by", "order", "attacks resisted", "reason")
    for event in events:
        gate = event.gate
        table.add_row(
            clock(event.time),
            event.kind.value,
            str(event.version or ""),
            event.digest[:8],
            words(event.by),
            f"{gate.active.order:.2f} → {gate.candidate.order:.2f}" if gate else "",
            f"{gate.active.attacks_resisted:.2f} → {gate.candidate.attacks_resisted:.2f}" if gate else "",
            words(event.reason),
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
        expected = _active(client.call("GET", f"/lineage/{task}", list[LineageEvent], params=place(lineage, scope)))
        body = {"by": by, "reason": reason, "version": version, "expected": expected}
        answer = client.call(
            "POST", f"/rubrics/{task}/rollback", PutRubricAnswer, json=body, params=place(lineage, scope)
        )
    console.print(f"version {answer.version} is active: {answer.digest}", soft_wrap=True)


def _active(history: list[LineageEvent]) -> str | None:
    changes = (EventKind.ACTIVATED, EventKind.ROLLED_BACK)
    return next((event.digest for event in reversed(history) if event.kind in changes), None)
