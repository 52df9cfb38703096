"""What the measurements say: rows, headline figures (pure functions), a table, and the JSON."""

import json
import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SERVICE, FAN_OUT, CALLS = "POST /score", "raw batch fan-out", "bare aiohttp"
TARGETS = {
    "regrade_over_aiohttp": ("at most", 0.7),
    "regrade_over_ruler": ("at most", 1 / 8),
    "regrade_over_cheapest_pointwise": ("at most", 1 / 15),
    "throughput_over_fan_out": ("at least", 0.92),
}
"""What the headline figures have to be."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: microseconds of CPU an item, items a second, milliseconds a call (median, 99th percentile)."""

    cpu_us: float
    items_s: float
    p50_ms: float
    p99_ms: float
    redis_us: float | None = None

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> "Sample":
        """From what a contender answered."""
        items = measured["items"]
        latencies = sorted(measured["latencies_s"])
        redis_s = measured.get("redis_cpu_s")
        return cls(
            cpu_us=1e6 * measured["cpu_s"] / items,
            items_s=items / measured["wall_s"],
            p50_ms=1e3 * statistics.median(latencies),
            p99_ms=1e3 * latencies[math.ceil(0.99 * len(latencies)) - 1],
            redis_us=None if redis_s is None else 1e6 * redis_s / items,
        )


@dataclass(slots=True)
class Row:
    """A contender under one load. Sample n of every row is of round n, so rows can be compared round by round."""

    name: str
    kind: str
    """`service`, `limit`, `client`, `grouped` or `pointwise`."""
    delay_ms: int
    criteria: int
    in_flight: int
    """Items at once."""
    samples: list[Sample] = field(default_factory=list)

    def middle(self, figure: str) -> float:
        """The median of one of the samples' figures."""
        return statistics.median(float(getattr(sample, figure)) for sample in self.samples)


def ratio(over: Row, under: Row, figure: str) -> float:
    """The median over the rounds of one row's figure over the other's in the same round."""
    pairs = zip(over.samples, under.samples, strict=True)
    return statistics.median(float(getattr(a, figure) / getattr(b, figure)) for a, b in pairs)


def headlines(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures that the targets are about; None where a row they need was not measured.

    CPU: one criterion, an engine of 0 ms, `/score` at whichever concurrency makes it dearer. Throughput: one
    criterion, an engine of 50 ms, the most batches at once.
    """

    def pick(keep: Callable[[Row], bool], by: Callable[[Row], float]) -> Row | None:
        return min((row for row in rows if row.samples and row.criteria == 1 and keep(row)), key=by, default=None)

    def cpu(row: Row) -> float:
        return row.middle("cpu_us")

    def share(over: Row | None, under: Row | None, figure: str) -> float | None:
        return None if over is None or under is None else ratio(over, under, figure)

    service = pick(lambda r: r.name == SERVICE and r.delay_ms == 0, lambda r: -cpu(r))
    calls = pick(lambda r: r.name == CALLS and r.delay_ms == 0, cpu)
    ruler = pick(lambda r: r.name == "ruler" and r.delay_ms == 0, cpu)
    cheapest = pick(lambda r: r.kind == "pointwise" and r.delay_ms == 0, cpu)
    busy = pick(lambda r: r.name == SERVICE and r.delay_ms == 50, lambda r: -r.in_flight)
    limit = pick(lambda r: r.name == FAN_OUT and r.delay_ms == 50, lambda r: -r.in_flight)
    return {
        "regrade_over_aiohttp": share(service, calls, "cpu_us"),
        "regrade_over_ruler": share(service, ruler, "cpu_us"),
        "regrade_over_cheapest_pointwise": share(service, cheapest, "cpu_us"),
        "throughput_over_fan_out": share(busy, limit, "items_s"),
        "cheapest_pointwise": cheapest.name if cheapest else None,
        "regrade_cpu_us": cpu(service) if service else None,
        "aiohttp_cpu_us": cpu(calls) if calls else None,
    }


def meets(name: str, value: float) -> bool:
    """Whether a headline figure is what it has to be."""
    side, bound = TARGETS[name]
    return value <= bound if side == "at most" else value >= bound


def document(rows: Sequence[Row], skipped: Mapping[str, str], about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON: the headline figures at the top level, then how they came about."""
    return {
        **headlines(rows),
        **about,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "skipped": dict(skipped),
        "rows": [asdict(row) for row in rows],
    }


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def show(console: Console, rows: Sequence[Row], skipped: Mapping[str, str]) -> None:
    """The table and, below it, the headline figures against their targets."""
    table = Table(title="CPU of a judged item, and throughput")
    for column in ("contender", "engine", "criteria", "at once"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for column in ("CPU us/item\nmin", "\nmedian", "\nmax", "x bare\naiohttp", "Redis\nus/item"):
        table.add_column(column, justify="right")
    for column in ("items/s\nmin", "\nmedian", "\nmax", "p50 ms\na call", "p99 ms\na call"):
        table.add_column(column, justify="right")
    for row in sorted((row for row in rows if row.samples), key=_order):
        table.add_row(*_cells(row, rows))
    console.print(table)
    for name, reason in skipped.items():
        console.print(f"skipped {name}: {reason}", style="yellow", markup=False)
    found = headlines(rows)
    for name, (side, bound) in TARGETS.items():
        value = found[name]
        if value is None:
            console.print(f"{name}: not measured", style="yellow")
        else:
            style = "green" if meets(name, value) else "red"
            console.print(f"{name}: {value:.3f} ({side} {bound:.3f} wanted)", style=style, markup=False)


def _order(row: Row) -> tuple[object, ...]:
    kinds = ("service", "limit", "client", "grouped", "pointwise")
    return row.delay_ms, kinds.index(row.kind), row.criteria, row.in_flight, row.middle("cpu_us")


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    calls = [r for r in rows if r.name == CALLS and r.delay_ms == row.delay_ms and r.samples]
    redis = [sample.redis_us for sample in row.samples if sample.redis_us is not None]
    return [
        row.name,
        f"{row.delay_ms} ms",
        str(row.criteria),
        str(row.in_flight),
        *_spread([sample.cpu_us for sample in row.samples]),
        f"{ratio(row, calls[0], 'cpu_us'):.2f}" if calls else "",
        f"{statistics.median(redis):.0f}" if redis else "",
        *_spread([sample.items_s for sample in row.samples]),
        f"{row.middle('p50_ms'):.1f}",
        f"{row.middle('p99_ms'):.1f}",
    ]


def _spread(figures: Sequence[float]) -> list[str]:
    return [f"{value:,.0f}" for value in (min(figures), statistics.median(figures), max(figures))]
