"""A plot of throughput, latency and memory over time, with the outages marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.soak.faults import Outage
from benchmarks.soak.monitor import MonitorSample

_COLOURS = ("#2563eb", "#d97706")
_MARK = "#dc2626"


def draw(path: Path, samples: Sequence[MonitorSample], outages: Sequence[Outage], replicas: Sequence[str]) -> None:
    """Write the plot to `path`, in the format of its suffix."""
    figure = Figure(figsize=(10.0, 8.0), layout="constrained")
    throughput, latency, memory = figure.subplots(3, 1, sharex=True)
    at = [sample.at for sample in samples]
    throughput.plot(at, [sample.items_s for sample in samples], color=_COLOURS[0])
    throughput.set_ylabel("items per second")
    throughput.set_ylim(bottom=0)
    for label, values, colour in (
        ("median", [sample.p50_ms for sample in samples], _COLOURS[0]),
        ("99th percentile", [sample.p99_ms for sample in samples], _COLOURS[1]),
    ):
        latency.plot(at, _gaps(values), color=colour, label=label)
    latency.set_yscale("log")
    latency.set_ylabel("request, ms")
    latency.legend(frameon=False, fontsize=9)
    for n, name in enumerate(replicas):
        memory.plot(at, _gaps([sample.rss_mb[n] for sample in samples]), color=_COLOURS[n], label=name)
    memory.set_ylabel("resident, MB")
    memory.set_ylim(bottom=0)
    memory.set_xlabel("seconds")
    memory.legend(frameon=False, fontsize=9)
    for axes in (throughput, latency, memory):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        for outage in outages:
            axes.axvspan(outage.began, outage.ended, color=_MARK, alpha=0.15, linewidth=0)
    for n, outage in enumerate(outages):
        throughput.annotate(
            outage.what, (outage.began, 1.0), xycoords=("data", "axes fraction"),
            xytext=(0, 4 + 10 * (n % 3)), textcoords="offset points", color=_MARK, fontsize=8,
        )  # fmt: skip
    figure.savefig(path, dpi=110)


def _gaps(values: Sequence[Any]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]
