"""The report's plots, as SVG text."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from regrade.contracts import GateReport

_WIDTH = 8.0
_COLOURS = ("#2563eb", "#059669", "#d97706", "#7c3aed", "#dc2626", "#0891b2", "#65a30d", "#db2777")

Rows = Sequence[dict[str, float]]


def reward_plot(rows: Rows) -> str:
    """Reward by step with its spread within groups; a vertical line where the rubric version changes."""
    figure, axes = _axes(3.2)
    steps = [row["step"] for row in rows]
    rewards = [row["reward"] for row in rows]
    spread = [row.get("reward_std", 0.0) for row in rows]
    axes.fill_between(
        steps, [r - s for r, s in zip(rewards, spread, strict=True)],
        [r + s for r, s in zip(rewards, spread, strict=True)], color=_COLOURS[0], alpha=0.15, linewidth=0,
    )  # fmt: skip
    axes.plot(steps, rewards, color=_COLOURS[0], marker="o", markersize=3)
    for before, row in pairwise(rows):
        version = row.get("regrade/rubric_version")
        if version != before.get("regrade/rubric_version"):
            at = (before["step"] + row["step"]) / 2
            axes.axvline(at, color=_COLOURS[4], linestyle="--", linewidth=1)
            axes.annotate(
                f"rubric v{version:g}", (at, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -12),
                textcoords="offset points", color=_COLOURS[4], fontsize=9,
            )  # fmt: skip
    return _svg(figure, axes, "step", "reward (mean, ± std in a group)")


def criteria_plot(rows: Rows) -> str:
    """Mean score of each criterion by step; a line begins where its criterion does."""
    figure, axes = _axes(3.2)
    prefix = "regrade/criterion/"
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith(prefix)))
    for index, name in enumerate(names):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(
            [x for x, _ in points], [y for _, y in points], label=name.removeprefix(prefix),
            color=_COLOURS[index % len(_COLOURS)], marker="o", markersize=3,
        )  # fmt: skip
    axes.set_ylim(-0.03, 1.03)
    if names:
        axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left")
    return _svg(figure, axes, "step", "criterion score (mean)")


def anchors_plot(gates: Sequence[tuple[str, GateReport]]) -> str:
    """Per activated version: share of each kind of damaged twin that its original beats, before and after."""
    figure, axes = _axes(3.0)
    bars: list[tuple[str, dict[str, float]]] = []
    for label, gate in gates:
        if not bars:
            bars.append(("before", gate.active.order_by_transform | {"all": gate.active.order}))
        bars.append((label, gate.candidate.order_by_transform | {"all": gate.candidate.order}))
    kinds = list(bars[0][1]) if bars else []
    width = 0.8 / max(1, len(bars))
    for index, (label, shares) in enumerate(bars):
        xs = [position + index * width for position in range(len(kinds))]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.bar(xs, [shares.get(kind, 0.0) for kind in kinds], width, label=label, color=colour)
    axes.set_xticks([p + 0.4 - width / 2 for p in range(len(kinds))], [kind.replace("_", " ") for kind in kinds])
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=4, bbox_to_anchor=(0, 1.18))
    return _svg(figure, axes, "", "anchor pairs in order")


def durations_plot(rows: Rows, busy: Sequence[bool]) -> str:
    """Seconds of each step; `busy` tells whether a rubric cycle ran meanwhile."""
    figure, axes = _axes(2.4)
    for label, wanted, colour in (("no cycle", False, _COLOURS[0]), ("while a cycle ran", True, _COLOURS[2])):
        chosen = [row for row, b in zip(rows, busy, strict=True) if b is wanted]
        axes.bar([row["step"] for row in chosen], [row["ended"] - row["started"] for row in chosen], 0.8, label=label,
                 color=colour)  # fmt: skip
    axes.legend(frameon=False, fontsize=9, ncols=2)
    return _svg(figure, axes, "step", "seconds")


def _axes(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def _svg(figure: Figure, axes: Any, x: str, y: str) -> str:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    out = io.StringIO()
    with rc_context({"svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
