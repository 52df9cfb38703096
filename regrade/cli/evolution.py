"""`regrade status`, `evolve`, `pause`, `resume`, `alarms`: the worker, and what an operator asks of it."""

import time
from typing import Annotated

import typer
from rich.table import Table

from regrade.cli.connection import (
    DEFAULT_META_URL,
    AsJson,
    By,
    Key,
    Lineage,
    MetaUrl,
    Reason,
    ScopeOption,
    Task,
    connect,
    console,
    place,
    print_json,
    words,
)
from regrade.contracts import MAIN_LINEAGE, Alarm, CycleStatus


def status(
    task: Task,
    as_json: AsJson = False,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Tell what the meta-reward worker does for a task now, what waits, and which alarms are raised."""
    with connect(meta_url, key) as client:
        now = client.call("GET", f"/status/{task}", CycleStatus, params=place(lineage, scope))
        raised = client.call("GET", f"/alarms/{task}", list[Alarm], params=place(lineage, scope))
    if as_json:
        print_json(now)
        return
    _tell(now)
    for alarm in raised:
        console.print(words(f"alarm: {alarm.name} {alarm.figure:.2f}, above {alarm.threshold:.2f}", style="yellow"))


def evolve(
    task: Task,
    reason: Reason = "asked for from the command line",
    by: By = "operator",
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Ask the meta-reward service for a cycle now. It needs traces that no cycle has seen yet."""
    now = _ask("", task, reason, by, lineage, scope, meta_url, key)
    console.print(f"asked for; {now.completed} cycles done so far, {now.lag} traces wait", soft_wrap=True)
    console.print(f"what comes of it: regrade cycles list {task}")


def pause(
    task: Task,
    reason: Reason,
    by: By = "operator",
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Start no more cycles but on request (evolve). One under way goes on; scoring is not touched."""
    _tell(_ask("/pause", task, reason, by, lineage, scope, meta_url, key))


def resume(
    task: Task,
    reason: Reason = "resumed from the command line",
    by: By = "operator",
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Start cycles again when they are due."""
    _tell(_ask("/resume", task, reason, by, lineage, scope, meta_url, key))


def alarms(
    task: Task,
    as_json: AsJson = False,
    traces: Annotated[int, typer.Option(min=0, help="So many of the traces that show each alarm.")] = 3,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """List the alarms that are raised: how far each figure went, and which traces show it.

    An alarm starts a cycle. It stands until its figure is back below "lowered at". Look at one of its traces with
    `regrade traces show TASK ID`.
    """
    with connect(meta_url, key) as client:
        raised = client.call("GET", f"/alarms/{task}", list[Alarm], params=place(lineage, scope))
    if as_json:
        print_json(raised)
        return
    if not raised:
        console.print("no alarm is raised")
        return
    table = Table("alarm", "figure", "raised above", "lowered at", "traces that show it")
    for alarm in raised:
        limits = (f"{alarm.figure:.2f}", f"{alarm.threshold:.2f}", f"{alarm.lowered_at:.2f}")
        table.add_row(words(alarm.name), *limits, words("\n".join(alarm.traces[:traces])))
    console.print(table)


def _ask(
    deed: str, task: str, reason: str, by: str, lineage: str, scope: str | None, meta_url: str, key: str
) -> CycleStatus:
    with connect(meta_url, key) as client:
        body = {"by": by, "reason": reason}
        return client.call("POST", f"/cycles/{task}{deed}", CycleStatus, json=body, params=place(lineage, scope))


def _tell(now: CycleStatus) -> None:
    line = f"{now.stage.value}{f' ({now.detail})' if now.detail else ''}; {now.completed} cycles done, {now.lag} traces"
    console.print(words(f"{line} wait"), soft_wrap=True)
    if now.fruitless:
        console.print(f"the last {now.fruitless} cycles activated nothing: the next one waits for more", soft_wrap=True)
    if now.paused is not None:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(now.paused.since))
        told = f"paused by {now.paused.by} since {since}: {now.paused.reason}"
        console.print(words(told, style="yellow"), soft_wrap=True)
    if now.error:
        console.print(words(f"the last cycle failed: {now.error}", style="red"), soft_wrap=True)
