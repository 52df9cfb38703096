"""The report of a local run: one self-contained HTML file, and its figures as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from jinja2 import Environment

from regrade.contracts import CycleReport, EventKind, GateReport, LineageEvent, RubricDiff
from services.local import plots
from services.local.plots import Steps


class Run(NamedTuple):
    """The data of a report. `diffs` compare each activated rubric with the one it replaced."""

    name: str
    task: str
    judge_model: str
    steps: Steps
    cycles: Sequence[CycleReport]
    lineage: Sequence[LineageEvent]
    diffs: Sequence[RubricDiff]


def figures(run: Run) -> dict[str, Any]:
    """The run in numbers: steps, cycles, gate decisions, anchor order, and step times with and without a cycle."""
    busy = busy_steps(run.steps, run.cycles)
    seconds = [step["ended"] - step["started"] for step in run.steps]
    with_cycle = [s for s, b in zip(seconds, busy, strict=True) if b]
    without_cycle = [s for s, b in zip(seconds, busy, strict=True) if not b]
    gates = [gate for _, gate in activated_gates(run.lineage)]
    first, last = (gates[0].active, gates[-1].candidate) if gates else (None, None)
    versions = Counter(f"{s['regrade/rubric_version']:g}" for s in run.steps if "regrade/rubric_version" in s)
    return {
        "run": run.name,
        "task": run.task,
        "steps": len(run.steps),
        "reward_first_steps": _mean([step["reward"] for step in run.steps[:3]]),
        "reward_last_steps": _mean([step["reward"] for step in run.steps[-3:]]),
        "cycles": len(run.cycles),
        "cycle_seconds": [round(cycle.finished - cycle.started, 1) for cycle in run.cycles],
        "activations_through_gate": len(gates),
        "rejected": sum(event.kind is EventKind.REJECTED for event in run.lineage),
        "anchor_order_before": first and first.order,
        "anchor_order_after": last and last.order,
        "attacks_resisted_before": first and first.attacks_resisted,
        "attacks_resisted_after": last and last.attacks_resisted,
        "steps_by_version": dict(versions),
        "step_seconds_without_cycle": _spread(without_cycle),
        "step_seconds_with_cycle": _spread(with_cycle),
        "steps_finished_during_a_cycle": len(with_cycle),
    }


def busy_steps(steps: Steps, cycles: Sequence[CycleReport]) -> list[bool]:
    """For each step, whether a cycle ran during any part of it."""
    return [any(c.started < step["ended"] and step["started"] < c.finished for c in cycles) for step in steps]


def activated_gates(lineage: Sequence[LineageEvent]) -> list[tuple[str, GateReport]]:
    """The gate reports of the candidates that became active, labelled with their version."""
    measured = {event.gate.candidate.digest: event.gate for event in lineage if event.gate is not None}
    return [
        (f"version {event.version}", measured[event.digest])
        for event in lineage
        if event.kind is EventKind.ACTIVATED and event.digest in measured
    ]


def write_report(run: Run, folder: Path) -> Path:
    """Write `report.html` and `figures.json` into `folder`; returns the path of `report.html`."""
    numbers = figures(run)
    (folder / "figures.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    template = resources.files("services.local").joinpath("report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    gates = activated_gates(run.lineage)
    html = page.render(
        run=run,
        numbers=numbers,
        events=[event for event in run.lineage if event.kind is not EventKind.PROPOSED],
        reward_plot=plots.reward_plot(run.steps),
        criteria_plot=plots.criteria_plot(run.steps),
        anchors_plot=plots.anchors_plot(gates) if gates else "",
        durations_plot=plots.durations_plot(run.steps, busy_steps(run.steps, run.cycles)),
    )
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def _spread(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"min": round(min(seconds), 1), "median": round(median(seconds), 1), "max": round(max(seconds), 1)}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
