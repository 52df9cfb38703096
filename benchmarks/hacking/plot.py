"""Honest mass over steps: a line per arm, thin lines for its seeds."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.hacking.experiment import ARMS

_COLOURS = dict(
    zip((arm.name for arm in ARMS), ("#94a3b8", "#475569", "#059669", "#d97706", "#2563eb", "#fbbf24", "#7c3aed"),
        strict=True)
)  # fmt: skip


def draw(path: Path, runs: Sequence[dict[str, Any]], onsets: Sequence[float]) -> None:
    """Write the plot to `path`, in the format of its suffix."""
    figure = Figure(figsize=(10.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in _COLOURS.items():
        curves = [run["curve"] for run in runs if run["arm"] == name]
        if not curves:
            continue
        for curve in curves:
            axes.plot(curve, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot([fmean(masses) for masses in zip(*curves, strict=False)], color=colour, label=name, linewidth=2)
    for onset in sorted(set(onsets) - {0.0}):
        axes.axvline(onset * (len(runs[0]["curve"]) - 1), color="#dc2626", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("step (dashed: further hacks appear)")
    axes.set_ylabel("mass on honest strategies, all hacks")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
