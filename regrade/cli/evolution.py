"""`regrade status`, `evolve`, `pause`, `resume`, `alarms`: the state and control of the meta-reward worker."""

import time
from typing import Annotated

import typer

from regrade.cli.connection import (
    ByOption,
    JsonOption,
    MetaService,
    ReasonOption,
    TaskArgument,
    meta_command,
)
from regrade.cli.cycles import outcome
from regrade.cli.output import counted, fail, local_time, print_json, print_notice, print_table, print_text
from regrade.contracts import Alarm, CycleReport, CycleStatus, Stage

_POLL_S = 0.5


@meta_command
def status(meta: MetaService, task: TaskArgument, as_json: JsonOption = False) -> None:
    """Show what the meta-reward worker does for a task, how many traces wait, and which alarms are raised.

    Example: regrade status essay_writing
    """
    current = meta.get(f"/status/{task}", CycleStatus)
    alarms = meta.get(f"/alarms/{task}", list[Alarm])
    if not current.completed and not current.lag:
        meta.require_rubric(task)
    if as_json:
        return print_json(current)
    _print_status(current)
    for alarm in alarms:
        limits = f"raised above {alarm.threshold:.2f}, cleared below {alarm.lowered_at:.2f}"
        print_text(f"alarm: {alarm.name} {alarm.figure:.2f} ({limits})", style="yellow")


@meta_command
def evolve(
    meta: MetaService,
    task: TaskArgument,
    reason: ReasonOption = "requested from the command line",
    by: ByOption = "operator",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end of the cycle, and print its result.")] = False,
) -> None:
    """Request an evolution cycle. It needs traces that no cycle has read yet: see `regrade status`.

    With --wait, ends with status 1 if the cycle fails. Ctrl-C ends the waiting, not the cycle.

    Example: regrade evolve essay_writing --wait
    """
    before = meta.get(f"/status/{task}", CycleStatus)
    current = meta.post(f"/cycles/{task}", CycleStatus, by=by, reason=reason)
    print_text(f"cycle requested on {counted(current.lag, 'trace')}; {counted(current.completed, 'cycle')} done before")
    if not wait:
        return print_text(f"see its result with: regrade cycles {task}")
    report = _wait_for_cycle(meta, task, before)
    if report is None:
        return print_text(f"another cycle has read the traces: regrade cycles {task}")
    print_text(f"cycle {report.number or report.cycle}: {outcome(report)}", style="bold")
    print_text(f"see why with: regrade cycles show {task} {report.number or report.cycle}")


def _wait_for_cycle(meta: MetaService, task: str, before: CycleStatus) -> CycleReport | None:
    """The report of the requested cycle; None if it needed none. Ends the command if the cycle fails."""
    progress = ""
    while (current := meta.get(f"/status/{task}", CycleStatus)).requested:
        if current.stage is Stage.IDLE and current.error and current.updated != before.updated:
            fail(f"the cycle failed: {current.error}. It is tried again; see the meta-reward service's log")
        stage = (
            f"{current.stage.value}: {current.detail}" if current.stage is not Stage.IDLE else "waiting for a worker"
        )
        if stage != progress:
            progress = stage
            print_notice(stage)
        time.sleep(_POLL_S)
    reports = meta.get(f"/cycles/{task}", list[CycleReport], limit=max(1, current.completed - before.completed))
    return reports[-1] if current.completed > before.completed else None


@meta_command
def pause(meta: MetaService, task: TaskArgument, reason: ReasonOption, by: ByOption = "operator") -> None:
    """Start no more cycles except on request. A running cycle continues, and scoring is not affected.

    Example: regrade pause essay_writing --reason "a deadline"
    """
    meta.require_rubric(task)
    _print_status(meta.post(f"/cycles/{task}/pause", CycleStatus, by=by, reason=reason))


@meta_command
def resume(
    meta: MetaService,
    task: TaskArgument,
    reason: ReasonOption = "resumed from the command line",
    by: ByOption = "operator",
) -> None:
    """Start cycles again after `regrade pause`.

    Example: regrade resume essay_writing
    """
    meta.require_rubric(task)
    _print_status(meta.post(f"/cycles/{task}/resume", CycleStatus, by=by, reason=reason))


@meta_command
def alarms(
    meta: MetaService,
    task: TaskArgument,
    as_json: JsonOption = False,
    traces: Annotated[int, typer.Option(min=0, help="Example traces of each alarm.")] = 3,
) -> None:
    """List raised alarms: the figure, its thresholds, and example traces.

    An alarm starts one cycle, and clears when its figure is back below "lowered at".

    Example: regrade alarms essay_writing, then regrade traces show essay_writing ID
    """
    raised = meta.get(f"/alarms/{task}", list[Alarm])
    if not raised:
        meta.require_rubric(task)
    if as_json:
        return print_json(raised)
    if not raised:
        return print_text("no alarm is raised")
    rows = []
    for alarm in raised:
        figures = (f"{value:.2f}" for value in (alarm.figure, alarm.threshold, alarm.lowered_at))
        rows.append((alarm.name, *figures, "\n".join(alarm.traces[:traces])))
    print_table(("alarm", "figure", "raised above", "lowered at", "example traces"), rows)


def _print_status(current: CycleStatus) -> None:
    stage = f"{current.stage.value} ({current.detail})" if current.detail else current.stage.value
    print_text(f"{stage}; {counted(current.completed, 'cycle')} done, {counted(current.lag, 'trace')} waiting")
    if current.requested:
        print_text("a cycle is requested")
    if current.fruitless:
        print_text(f"the last {current.fruitless} cycles activated nothing, so the next one waits for more traces")
    if current.paused is not None:
        paused = current.paused
        print_text(f"paused by {paused.by} since {local_time(paused.since)}: {paused.reason}", style="yellow")
    if current.error:
        print_text(f"the last cycle failed: {current.error}", style="red")
