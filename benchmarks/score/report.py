"""The results of `bench-score`: headline figures (pure functions), a table, and the JSON."""

import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

SERVICE, FAN_OUT, CALLS = "POST /score", "raw batch fan-out", "bare aiohttp"
KINDS = ("service", "limit", "client", "grouped", "pointwise")
"""Kinds of contenders, in the table's order; the last two are peers."""
TARGETS = {
    "regrade_over_aiohttp": ("at most", 0.7),
    "regrade_over_ruler": ("at most", 1 / 8),
    "regrade_over_cheapest_pointwise": ("at most", 1 / 15),
    "throughput_over_fan_out": ("at least", 0.92),
}
"""Bounds of the headline figures."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One measurement: CPU in microseconds per item, items per second, latency of a call in ms (median, p99)."""

    cpu_us: float
    items_s: float
    p50_ms: float
    p99_ms: float
    redis_us: float | None = None

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> "RoundResult":
        """From a contender's result."""
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
class LoadResult:
    """A contender's results under one load. `samples[n]` is of round n, so that loads can be compared by round."""

    name: str
    kind: str
    """One of `KINDS`."""
    delay_ms: int
    criteria: int
    in_flight: int
    """Concurrent items."""
    samples: list[RoundResult] = field(default_factory=list)

    def median(self, figure: str) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(float(getattr(sample, figure)) for sample in self.samples)


def ratio(over: LoadResult, under: LoadResult, figure: str) -> float:
    """The median over the rounds of the ratio of two contenders' figures within the same round."""
    pairs = zip(over.samples, under.samples, strict=True)
    return statistics.median(float(getattr(a, figure) / getattr(b, figure)) for a, b in pairs)


def headlines(results: Sequence[LoadResult]) -> dict[str, Any]:
    """The headline figures; None where a result they need is missing.

    CPU: one criterion, an engine of 0 ms, `/score` at the concurrency with the higher cost. Throughput: one criterion,
    an engine of 50 ms, the highest concurrency.
    """

    def pick(keep: Callable[[LoadResult], bool], by: Callable[[LoadResult], float]) -> LoadResult | None:
        return min((r for r in results if r.samples and r.criteria == 1 and keep(r)), key=by, default=None)

    def cpu(result: LoadResult) -> float:
        return result.median("cpu_us")

    def share(over: LoadResult | None, under: LoadResult | None, figure: str) -> float | None:
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


def meets_target(name: str, value: float) -> bool:
    """Whether a headline figure is within its bound."""
    side, bound = TARGETS[name]
    return value <= bound if side == "at most" else value >= bound


def document(
    results: Sequence[LoadResult], skipped: Mapping[str, str], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON: headline figures at the top level, then the conditions and all results."""
    return {
        **headlines(results),
        **conditions,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "skipped": dict(skipped),
        "rows": [asdict(result) for result in results],
    }


def show(console: Console, results: Sequence[LoadResult], skipped: Mapping[str, str]) -> None:
    """Print the table and, below it, the headline figures with their targets."""
    table = Table(title="CPU per judged item, and throughput")
    for column in ("contender", "engine", "criteria", "in flight"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for column in ("CPU us/item\nmin", "\nmedian", "\nmax", "x bare\naiohttp", "Redis\nus/item"):
        table.add_column(column, justify="right")
    for column in ("items/s\nmin", "\nmedian", "\nmax", "p50 ms\na call", "p99 ms\na call"):
        table.add_column(column, justify="right")
    for result in sorted((result for result in results if result.samples), key=_order):
        table.add_row(*_cells(result, results))
    console.print(table)
    for name, reason in skipped.items():
        console.print(f"skipped {name}: {reason}", style="yellow", markup=False)
    figures = headlines(results)
    for name, (side, bound) in TARGETS.items():
        value = figures[name]
        if value is None:
            console.print(f"{name}: not measured", style="yellow")
        else:
            style = "green" if meets_target(name, value) else "red"
            console.print(f"{name}: {value:.3f} (target: {side} {bound:.3f})", style=style, markup=False)


def _order(result: LoadResult) -> tuple[object, ...]:
    return result.delay_ms, KINDS.index(result.kind), result.criteria, result.in_flight, result.median("cpu_us")


def _cells(result: LoadResult, results: Sequence[LoadResult]) -> list[str]:
    calls = [r for r in results if r.name == CALLS and r.delay_ms == result.delay_ms and r.samples]
    redis = [sample.redis_us for sample in result.samples if sample.redis_us is not None]
    return [
        result.name,
        f"{result.delay_ms} ms",
        str(result.criteria),
        str(result.in_flight),
        *_spread([sample.cpu_us for sample in result.samples]),
        f"{ratio(result, calls[0], 'cpu_us'):.2f}" if calls else "",
        f"{statistics.median(redis):.0f}" if redis else "",
        *_spread([sample.items_s for sample in result.samples]),
        f"{result.median('p50_ms'):.1f}",
        f"{result.median('p99_ms'):.1f}",
    ]


def _spread(figures: Sequence[float]) -> list[str]:
    return [f"{value:,.0f}" for value in (min(figures), statistics.median(figures), max(figures))]
