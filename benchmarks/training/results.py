"""The comparison's figures, as a document, a Markdown table and a picture. Pure but for the writing."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from regrade.tasks import load_pack

_COLOURS = {"fixed": "#64748b", "regrade": "#2563eb"}
_STYLES = ("-", "--", ":", "-.")
_ENDS = 3
"""Steps at either end that a figure is the mean of."""


def document(runs: Sequence[dict[str, Any]], held_out: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """All runs' figures and rows."""
    return {
        "label": "a check of the plumbing: policy and judge of 135M parameters, a judge too small to follow text",
        "steps": steps,
        "runs": [_summary(run) | {"rows": [_short(run, row) for row in run["rows"]]} for run in runs],
        "held_out": dict(held_out),
    }


def _summary(run: Mapping[str, Any]) -> dict[str, Any]:
    rows = run["rows"]
    told = {name: run[name] for name in ("task", "arm", "seed", "config", "rejected", "versions")}
    for name, column in _columns(run["task"]).items():
        values = [row[column] for row in rows if column in row]
        if values:
            told[name] = {"first": fmean(values[:_ENDS]), "last": fmean(values[-_ENDS:])}
    seconds = [row["ended"] - row["started"] for row in rows]
    steps_by_version = {f"{row['regrade/rubric_version']:g}": 0 for row in rows}
    for row in rows:
        steps_by_version[f"{row['regrade/rubric_version']:g}"] += 1
    return told | {"steps_by_version": steps_by_version, "seconds_a_step": fmean(seconds)}


def _columns(task: str) -> dict[str, str]:
    """What is shown of a run: reward, the first criterion's score or the share of right answers, and length."""
    core = load_pack(task).starting_rubric.criteria[0].id
    return {
        "reward": "reward", "starting criterion": f"regrade/criterion/{core}", "right answers": "regrade/answer",
        "tokens": "completion_tokens",
    }  # fmt: skip


def _short(run: Mapping[str, Any], row: Mapping[str, float]) -> dict[str, float]:
    columns = {name: row[column] for name, column in _columns(run["task"]).items() if column in row}
    about = {"step": row["step"], "version": row["regrade/rubric_version"], "seconds": row["ended"] - row["started"]}
    return {name: round(value, 4) for name, value in (about | columns).items()}


def table(told: Mapping[str, Any]) -> str:
    """A row a run: means of the first and of the last three steps."""
    head = ("task", "arm", "seed", "reward", "starting criterion", "right answers", "tokens", "steps by version",
            "refused", "s a step")  # fmt: skip
    rows = [head, ("---",) * len(head)]
    for run in told["runs"]:
        ends = [
            f"{run[name]['first']:.{digits}f} to {run[name]['last']:.{digits}f}" if name in run else ""
            for name, digits in (("reward", 3), ("starting criterion", 3), ("right answers", 2), ("tokens", 0))
        ]
        versions = ", ".join(f"v{version}: {count}" for version, count in run["steps_by_version"].items())
        about = (run["task"], run["arm"], str(run["seed"]))
        rows.append((*about, *ends, versions, str(run["rejected"]), f"{run['seconds_a_step']:.0f}"))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    for task, found in told["held_out"].items():
        lines += ["", f"Held out, {task}, {found['prompts']} prompts, greedy:", "", *_held_out(found)]
    return "\n".join(lines) + "\n"


def _held_out(found: Mapping[str, Any]) -> list[str]:
    elo = {one["name"]: f"{one['elo']:.0f} ({one['low']:.0f} to {one['high']:.0f})" for one in found.get("elo", ())}
    names = list(next(iter(found["figures"].values())))
    rows = [["policy", *names, *(["Elo"] if elo else [])]]
    rows.append(["---"] * len(rows[0]))
    for entrant, figures in found["figures"].items():
        rows.append([entrant, *(f"{figures[name]:.1f}" for name in names), *([elo[entrant]] if elo else [])])
    return [f"| {' | '.join(row)} |" for row in rows]


def draw(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """A row of plots a task, a line a run: colour is the arm, dashes the seed; a dot where a version came in."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    figure = Figure(figsize=(11.0, 3.2 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 3, squeeze=False)
    for line, task in zip(axes, tasks, strict=True):
        own = [run for run in runs if run["task"] == task]
        columns = _columns(task)
        has_answers = any("regrade/answer" in row for run in own for row in run["rows"])
        shown = ("reward", "right answers" if has_answers else "starting criterion", "tokens")
        for axis, name in zip(line, shown, strict=True):
            for run in own:
                _line(axis, run, columns[name])
            axis.set_title(f"{task}: {name}", fontsize=10)
            axis.set_xlabel("step")
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "regrade"}):
        figure.savefig(path, metadata={"Date": None})


def _line(axis: Any, run: Mapping[str, Any], column: str) -> None:
    rows = [row for row in run["rows"] if column in row]
    label = f"{'fixed rubric' if run['arm'] == 'fixed' else 'Regrade'}, seed {run['seed']}"
    style = _STYLES[run["seed"] % len(_STYLES)]
    colour = _COLOURS[run["arm"]]
    axis.plot([r["step"] for r in rows], [r[column] for r in rows], color=colour, linestyle=style, label=label)
    new = [b for a, b in itertools.pairwise(rows) if a["regrade/rubric_version"] != b["regrade/rubric_version"]]
    axis.plot([r["step"] for r in new], [r[column] for r in new], "o", color=colour, markersize=5)
