"""The comparison's figures as JSON content, a Markdown table and a plot."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from regrade.tasks import load_pack

_COLOURS = {"fixed": "#64748b", "regrade": "#2563eb"}
_LINE_STYLES = ("-", "--", ":", "-.")
_ENDS = 3
"""Number of first and last steps over which a figure is averaged."""


def document(runs: Sequence[dict[str, Any]], held_out: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """The JSON: summaries and steps of all runs, and the held-out evaluation."""
    return {
        "label": "a check of the loop: policy and judge have 135M parameters; the judge is too small to follow text",
        "steps": steps,
        "runs": [_summary(run) | {"rows": [_step(run, row) for row in run["rows"]]} for run in runs],
        "held_out": dict(held_out),
    }


def _summary(run: Mapping[str, Any]) -> dict[str, Any]:
    steps = run["rows"]
    summary = {name: run[name] for name in ("task", "arm", "seed", "config", "rejected", "versions")}
    for name, column in _columns(run["task"]).items():
        values = [step[column] for step in steps if column in step]
        if values:
            summary[name] = {"first": fmean(values[:_ENDS]), "last": fmean(values[-_ENDS:])}
    steps_by_version = Counter(f"{step['regrade/rubric_version']:g}" for step in steps)
    seconds = fmean(step["ended"] - step["started"] for step in steps)
    return summary | {"steps_by_version": dict(steps_by_version), "seconds_a_step": seconds}


def _columns(task: str) -> dict[str, str]:
    """Columns of the training log by display name: reward, the first criterion, correct answers, and length."""
    core = load_pack(task).starting_rubric.criteria[0].id
    return {
        "reward": "reward", "starting criterion": f"regrade/criterion/{core}", "right answers": "regrade/answer",
        "tokens": "completion_tokens",
    }  # fmt: skip


def _step(run: Mapping[str, Any], step: Mapping[str, float]) -> dict[str, float]:
    columns = {name: step[column] for name, column in _columns(run["task"]).items() if column in step}
    head = {"step": step["step"], "version": step["regrade/rubric_version"], "seconds": step["ended"] - step["started"]}
    return {name: round(value, 4) for name, value in (head | columns).items()}


def table(content: Mapping[str, Any]) -> str:
    """A Markdown table with a row per run: means of the first and of the last three steps."""
    head = ("task", "arm", "seed", "reward", "starting criterion", "right answers", "tokens", "steps by version",
            "rejected", "s per step")  # fmt: skip
    rows = [head, ("---",) * len(head)]
    for run in content["runs"]:
        ends = [
            f"{run[name]['first']:.{digits}f} to {run[name]['last']:.{digits}f}" if name in run else ""
            for name, digits in (("reward", 3), ("starting criterion", 3), ("right answers", 2), ("tokens", 0))
        ]
        versions = ", ".join(f"v{version}: {count}" for version, count in run["steps_by_version"].items())
        key = (run["task"], run["arm"], str(run["seed"]))
        rows.append((*key, *ends, versions, str(run["rejected"]), f"{run['seconds_a_step']:.0f}"))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    for task, evaluation in content["held_out"].items():
        lines += ["", f"Held out, {task}, {evaluation['prompts']} prompts, greedy:", "", *_held_out(evaluation)]
    return "\n".join(lines) + "\n"


def _held_out(evaluation: Mapping[str, Any]) -> list[str]:
    elo = {r["name"]: f"{r['elo']:.0f} ({r['low']:.0f} to {r['high']:.0f})" for r in evaluation.get("elo", ())}
    names = list(next(iter(evaluation["figures"].values())))
    rows = [["policy", *names, *(["Elo"] if elo else [])]]
    rows.append(["---"] * len(rows[0]))
    for entrant, metrics in evaluation["figures"].items():
        rows.append([entrant, *(f"{metrics[name]:.1f}" for name in names), *([elo[entrant]] if elo else [])])
    return [f"| {' | '.join(row)} |" for row in rows]


def draw(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """A row of plots per task, a curve per run: colour is the arm, line style the seed; a dot marks a new version."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    figure = Figure(figsize=(11.0, 3.2 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 3, squeeze=False)
    for axes_row, task in zip(axes, tasks, strict=True):
        own = [run for run in runs if run["task"] == task]
        columns = _columns(task)
        has_answers = any("regrade/answer" in step for run in own for step in run["rows"])
        names = ("reward", "right answers" if has_answers else "starting criterion", "tokens")
        for axis, name in zip(axes_row, names, strict=True):
            for run in own:
                _draw_run(axis, run, columns[name])
            axis.set_title(f"{task}: {name}", fontsize=10)
            axis.set_xlabel("step")
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "regrade"}):
        figure.savefig(path, metadata={"Date": None})


def _draw_run(axis: Any, run: Mapping[str, Any], column: str) -> None:
    steps = [step for step in run["rows"] if column in step]
    label = f"{'fixed rubric' if run['arm'] == 'fixed' else 'Regrade'}, seed {run['seed']}"
    style = _LINE_STYLES[run["seed"] % len(_LINE_STYLES)]
    colour = _COLOURS[run["arm"]]
    axis.plot([s["step"] for s in steps], [s[column] for s in steps], color=colour, linestyle=style, label=label)
    new = [b for a, b in pairwise(steps) if a["regrade/rubric_version"] != b["regrade/rubric_version"]]
    axis.plot([s["step"] for s in new], [s[column] for s in new], "o", color=colour, markersize=5)
