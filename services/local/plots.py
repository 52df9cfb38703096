"""The report's plots, as SVG text."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from regrade.contracts import GateReport

_WIDTH = 8.0
_COLOURS = ("#2563eb", "#059669", "#d97706", "#7c3aed", "#dc2626", "#0891b2", "#65a30d", "#db2777")

Steps = Sequence[dict[str, float]]
"""The metrics of each step, from the training log."""


def reward_plot(steps: Steps) -> str:
    """Reward by step with its spread within groups; a vertical line where the rubric version changes."""
    figure, axes = _axes(3.2)
    numbers = [step["step"] for step in steps]
    rewards = np.array([step["reward"] for step in steps])
    spread = np.array([step.get("reward_std", 0.0) for step in steps])
    axes.fill_between(numbers, rewards - spread, rewards + spread, color=_COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(numbers, rewards, color=_COLOURS[0], marker="o", markersize=3)
    for before, step in pairwise(steps):
        version = step.get("regrade/rubric_version")
        if version != before.get("regrade/rubric_version"):
            at = (before["step"] + step["step"]) / 2
            axes.axvline(at, color=_COLOURS[4], linestyle="--", linewidth=1)
            axes.annotate(
                f"rubric v{version:g}", (at, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -12),
                textcoords="offset points", color=_COLOURS[4], fontsize=9,
            )  # fmt: skip
    return _svg(figure, axes, "step", "reward (mean, ± std in a group)")


def criteria_plot(steps: Steps) -> str:
    """Mean score of each criterion by step; a curve begins where its criterion is added."""
    figure, axes = _axes(3.2)
    prefix = "regrade/criterion/"
    names = list(dict.fromkeys(name for step in steps for name in step if name.startswith(prefix)))
    for index, name in enumerate(names):
        scored = [step for step in steps if name in step]
        axes.plot(
            [step["step"] for step in scored], [step[name] for step in scored], label=name.removeprefix(prefix),
            color=_COLOURS[index % len(_COLOURS)], marker="o", markersize=3,
        )  # fmt: skip
    axes.set_ylim(-0.03, 1.03)
    if names:
        axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left")
    return _svg(figure, axes, "step", "criterion score (mean)")


def anchors_plot(gates: Sequence[tuple[str, GateReport]]) -> str:
    """Share of anchor pairs in order, by transform: under the first rubric, then under each activated version."""
    figure, axes = _axes(3.0)
    first = gates[0][1].active
    bars = [("before", first.order_by_transform | {"all": first.order})]
    bars += [(label, g.candidate.order_by_transform | {"all": g.candidate.order}) for label, g in gates]
    transforms = list(bars[0][1])
    width = 0.8 / len(bars)
    positions = np.arange(len(transforms))
    for index, (label, shares) in enumerate(bars):
        heights = [shares.get(transform, 0.0) for transform in transforms]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.bar(positions + index * width, heights, width, label=label, color=colour)
    axes.set_xticks(positions + 0.4 - width / 2, [transform.replace("_", " ") for transform in transforms])
    axes.set_ylim(0, 1.05)
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=4, bbox_to_anchor=(0, 1.18))
    return _svg(figure, axes, "", "anchor pairs in order")


def durations_plot(steps: Steps, busy: Sequence[bool]) -> str:
    """Seconds of each step; `busy` says for each step whether a rubric cycle ran during it."""
    figure, axes = _axes(2.4)
    for label, is_busy, colour in (("no cycle", False, _COLOURS[0]), ("while a cycle ran", True, _COLOURS[2])):
        chosen = [step for step, b in zip(steps, busy, strict=True) if b is is_busy]
        seconds = [step["ended"] - step["started"] for step in chosen]
        axes.bar([step["step"] for step in chosen], seconds, 0.8, label=label, color=colour)
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
