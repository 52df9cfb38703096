"""`regrade cycles`: what each cycle saw, tried and decided, with the figures."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.table import Table

from regrade.cli.connection import (
    DEFAULT_META_URL,
    AsJson,
    Key,
    Lineage,
    MetaUrl,
    ScopeOption,
    Task,
    clock,
    connect,
    console,
    place,
    print_json,
    words,
)
from regrade.contracts import MAIN_LINEAGE, CycleReport, Evidence, LineageEvent

_HELP = """Look at cycles: what the traces showed, what was proposed, and what the gate measured.

A cycle reads a window of traces (evidence), draws a sample, lets proposers write candidates, lints them, measures them
on anchors that no proposer has seen (gate), and activates the best one, if any gained for certain.
"""
_CHANGES = 6

app = typer.Typer(help=_HELP, no_args_is_help=True)


@app.command("list")
def list_cycles(
    task: Task,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="So many of the newest.")] = 20,
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many of the newest.")] = 0,
    as_json: AsJson = False,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """List the cycles that have ended, oldest first: why each began, what it saw, what came of it."""
    asked = place(lineage, scope) | {"limit": limit, "skip": skip}
    with connect(meta_url, key) as client:
        reports = client.call("GET", f"/cycles/{task}", list[CycleReport], params=asked)
    if as_json:
        print_json(reports)
        return
    table = Table("cycle", "ended", "why it began", "traces", "steps", "reward", "candidates", "what came of it")
    for report in reports:
        seen = report.evidence
        steps = "" if seen.first_step is None else f"{seen.first_step} to {seen.last_step}"
        table.add_row(
            words(report.cycle),
            clock(report.finished),
            words(report.trigger),
            str(seen.traces),
            steps,
            f"{seen.reward_mean:.2f} ± {seen.reward_std:.2f}",
            str(report.candidates),
            words(_outcome(report)),
        )
    console.print(table)


@app.command()
def show(
    task: Task,
    cycle: Annotated[str, typer.Argument(help="A cycle's name, as `regrade cycles list` tells it.")],
    as_json: AsJson = False,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Show one cycle: its evidence, its alarms, and the gate's figures for every candidate, refused ones too.

    order: share of anchor pairs put right, active → candidate. gain: of net order; certain where its lower bound,
    corrected for the number of candidates and decisions, is above 0.
    """
    with connect(meta_url, key) as client:
        report = client.call("GET", f"/cycles/{task}/{cycle}", CycleReport, params=place(lineage, scope))
        if as_json:
            print_json(report)
            return
        events = client.call("GET", f"/lineage/{task}", list[LineageEvent], params=place(lineage, scope))
    console.print(words(f"{report.cycle}, ended {clock(report.finished)}: {_outcome(report)}"), soft_wrap=True)
    console.print(words(f"began because: {report.trigger}"), soft_wrap=True)
    _show_evidence(report.evidence)
    _show_verdicts([event for event in events if event.cycle == cycle])
    for note in report.notes:
        console.print(words(f"note: {note}"), soft_wrap=True)


def _outcome(report: CycleReport) -> str:
    if report.abandoned:
        return f"abandoned: {report.abandoned}"
    return f"activated {report.activated[:8]}" if report.activated else "activated nothing"


def _show_evidence(seen: Evidence) -> None:
    console.print(
        f"{seen.traces} traces, {seen.groups} groups; reward {seen.reward_mean:.2f} ± {seen.reward_std:.2f} "
        f"({seen.reward_drift:+.2f} since the first steps); {seen.zero_variance_groups:.0%} of groups without spread; "
        f"{seen.saturated_share:.0%} saturated, {seen.flagged_share:.0%} flagged",
        soft_wrap=True,
    )
    console.print(f"moved most since the first steps: {_largest(seen.drift)}", soft_wrap=True)
    console.print(f"what the reward follows: {_largest(seen.correlation)}", soft_wrap=True)
    for alarm in seen.alarms:
        told = f"alarm: {alarm.name} {alarm.figure:.2f}, above {alarm.threshold:.2f}"
        console.print(words(told, style="yellow"), soft_wrap=True)


def _largest(figures: Mapping[str, float]) -> str:
    order = sorted(figures.items(), key=lambda entry: -abs(entry[1]))
    return ", ".join(f"{name} {value:+.2f}" for name, value in order[:_CHANGES] if value) or "nothing"


def _show_verdicts(events: Sequence[LineageEvent]) -> None:
    table = Table("what", "digest", "by", "order", "gain", "lower bound", "attacks resisted", "reason")
    for event in events:
        gate = event.gate
        figures = [""] * 4
        if gate is not None:
            figures = [
                f"{gate.active.order:.2f} → {gate.candidate.order:.2f}",
                f"{gate.order_gain:+.2f}",
                f"{gate.order_gain_lower:+.2f}",
                f"{gate.active.attacks_resisted:.2f} → {gate.candidate.attacks_resisted:.2f}",
            ]
        table.add_row(event.kind.value, event.digest[:8], words(event.by), *figures, words(event.reason))
    console.print(table)
