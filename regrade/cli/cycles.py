"""`regrade cycles`: evidence, candidates and gate figures of each evolution cycle."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from regrade.cli.connection import (
    JsonOption,
    MetaService,
    TaskArgument,
    meta_command,
)
from regrade.cli.groups import ListGroup
from regrade.cli.output import local_time, print_json, print_table, print_text
from regrade.contracts import CycleReport, Evidence, LineageEvent

_HELP = """Cycles: what the traces showed, what was proposed, and what the gate measured.

`regrade cycles TASK` lists them.

A cycle reads a window of traces (evidence), draws a sample, lets proposers write candidates, lints them, tests them on
anchors that no proposer has seen (gate), and activates the best one if its gain is statistically certain.

Example: regrade cycles essay_writing --limit 5
"""
_MAX_CHANGES = 6
"""Figures in a summary line; more do not fit an 80-column terminal."""

app = typer.Typer(cls=ListGroup, help=_HELP, no_args_is_help=True)


@app.command("list")
@meta_command
def list_cycles(
    meta: MetaService,
    task: TaskArgument,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Number of cycles.")] = 20,
    skip: Annotated[int, typer.Option(min=0, help="Number of newest cycles to skip.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List finished cycles, oldest first: trigger, evidence and result.

    Example: regrade cycles essay_writing --limit 5
    """
    reports = meta.get(f"/cycles/{task}", list[CycleReport], limit=limit, skip=skip)
    if not reports:
        meta.require_rubric(task)
    if as_json:
        return print_json(reports)
    if not reports:
        return print_text(
            "no cycle has ended; `regrade status` shows how many traces wait, `regrade evolve` requests one"
        )
    columns = ("cycle", "ended", "trigger", "traces", "steps", "reward", "candidates", "result")
    print_table(columns, map(_row, reports))


@app.command()
@meta_command
def show(
    meta: MetaService,
    task: TaskArgument,
    cycle: Annotated[str, typer.Argument(help="Number or id of the cycle, from `regrade cycles TASK`.")],
    as_json: JsonOption = False,
) -> None:
    """Show one cycle: its evidence, its alarms, and the gate's figures for each candidate.

    order: share of anchor pairs in the right order, active → candidate.
    gain: in net order; certain if its lower bound, corrected for candidates and decisions, is above 0.

    Example: regrade cycles show essay_writing 1
    """
    report = meta.get(f"/cycles/{task}/{cycle}", CycleReport)
    if as_json:
        return print_json(report)
    events = meta.get(f"/lineage/{task}", list[LineageEvent])
    print_text(f"{report.cycle}, ended {local_time(report.finished)}: {outcome(report)}")
    print_text(f"trigger: {report.trigger}")
    _print_evidence(report.evidence)
    _print_candidates([event for event in events if event.cycle == report.cycle])
    for note in report.notes:
        print_text(f"note: {note}")


def outcome(report: CycleReport) -> str:
    """What a cycle led to."""
    if report.abandoned:
        return f"abandoned: {report.abandoned}"
    return f"activated {report.activated[:8]}" if report.activated else "activated nothing"


def _row(report: CycleReport) -> tuple[object, ...]:
    evidence = report.evidence
    steps = "" if evidence.first_step is None else f"{evidence.first_step} to {evidence.last_step}"
    reward = f"{evidence.reward_mean:.2f} ± {evidence.reward_std:.2f}"
    ended, result = local_time(report.finished), outcome(report)
    return (
        report.number or report.cycle,
        ended,
        report.trigger,
        evidence.traces,
        steps,
        reward,
        report.candidates,
        result,
    )


def _print_evidence(evidence: Evidence) -> None:
    reward = f"{evidence.reward_mean:.2f} ± {evidence.reward_std:.2f}"
    print_text(
        f"{evidence.traces} traces, {evidence.groups} groups; reward {reward} ({evidence.reward_drift:+.2f} since the "
        f"first steps); {evidence.zero_variance_groups:.0%} of groups without spread; "
        f"{evidence.saturated_share:.0%} saturated, {evidence.flagged_share:.0%} flagged"
    )
    print_text(f"largest changes since the first steps: {_largest(evidence.drift)}")
    print_text(f"strongest correlations with the reward: {_largest(evidence.correlation)}")
    for alarm in evidence.alarms:
        print_text(f"alarm: {alarm.name} {alarm.figure:.2f}, above {alarm.threshold:.2f}", style="yellow")


def _largest(values: Mapping[str, float]) -> str:
    ordered = sorted(values.items(), key=lambda entry: -abs(entry[1]))
    return ", ".join(f"{name} {value:+.2f}" for name, value in ordered[:_MAX_CHANGES] if value) or "none"


def _print_candidates(events: Sequence[LineageEvent]) -> None:
    columns = ("event", "digest", "by", "order", "attacks resisted", "gain", "lower bound", "reason")
    rows = []
    for event in events:
        gate = event.gate
        gain = (f"{gate.order_gain:+.2f}", f"{gate.order_gain_lower:+.2f}") if gate else ("", "")
        rows.append((event.kind.value, event.digest[:8], event.by, *gate_figures(event), *gain, event.reason))
    print_table(columns, rows)


def gate_figures(event: LineageEvent) -> tuple[str, str]:
    """Anchor order and attacks resisted of an event, each as active → candidate; empty if there was no gate."""
    if event.gate is None:
        return "", ""
    active, candidate = event.gate.active, event.gate.candidate
    attacks = f"{active.attacks_resisted:.2f} → {candidate.attacks_resisted:.2f}"
    return f"{active.order:.2f} → {candidate.order:.2f}", attacks
