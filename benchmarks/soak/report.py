"""The findings: while it runs, as a table, and as JSON."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.soak.answer_log import Book, Violations
from benchmarks.soak.assessment import MAX_RSS_SLOPE, Flatness, Kept
from benchmarks.soak.faults import Outage
from benchmarks.soak.monitor import Sample, percentile_ms


@dataclass(frozen=True, slots=True)
class Findings:
    """All of a run."""

    seconds: float
    book: Book
    kept: Kept
    violations: Violations
    flatness: Mapping[str, Flatness]
    outages: Sequence[Outage]
    samples: Sequence[Sample]
    activations: int
    max_descriptors: int
    settings: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether no rule was broken."""
        return not self.violations.counts


def progress(sample: Sample, seconds: float, book: Book) -> str:
    """One line on how it goes."""
    memory = " ".join("   -" if rss is None else f"{rss:4.0f}" for rss in sample.rss_mb)
    latency = "     -" if sample.p50_ms is None else f"{sample.p50_ms:4.0f}/{sample.p99_ms or 0:<5.0f}"
    statuses = " ".join(f"{status}:{n}" for status, n in sorted(book.statuses.items()) if status.isdigit())
    broken = f"  BROKEN {dict(book.violations.counts)}" if book.violations.counts else ""
    away = f"  away: {sample.away}" if sample.away else ""
    return (
        f"{sample.at:5.0f} of {seconds:.0f} s  {sample.items_s:5.0f} items/s  p50/p99 {latency} ms  "
        f"RSS {memory} MB  {statuses}{away}{broken}"
    )


def show(console: Console, found: Findings) -> None:
    """The table."""
    table = Table(title="Soak", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in _rows(found):
        table.add_row(name, value)
    console.print(table)
    for rule, count in found.violations.counts.items():
        console.print(f"broken {count} times: {rule}", style="red", markup=False)
        for example in found.violations.examples[rule]:
            console.print(f"    {example}", markup=False)
    console.print("passed" if found.passed else "failed", style="green" if found.passed else "red")


def _rows(found: Findings) -> list[tuple[str, str]]:
    book, kept = found.book, found.kept
    rows = [
        ("requests", _counts(book.requests)),
        ("answered", _counts(book.statuses)),
        (
            "rewards",
            f"{book.rewarded} ({book.cached} from what was stored), {book.rewarded / found.seconds:.0f} a second",
        ),
        ("latency", _percentiles(book.latencies_s)),
        ("latency of candidates", _percentiles(book.shadow_latencies_s)),
        ("without a reward", _counts(book.errors) or "none"),
        ("flags", _counts(book.flags) or "none"),
        ("degraded answers", str(book.degraded)),
        ("items, traces, outcomes", f"{kept.items}, {kept.traces}, {kept.outcomes}"),
        ("scored, answer lost", str(kept.answers_lost)),
        ("answered otherwise in an outage", str(kept.answered_otherwise)),
        ("pins, activations", f"{kept.pins}, {found.activations}"),
    ]
    for name, flat in found.flatness.items():
        slope = f"{flat.rss_slope:+.2f} MB a minute (bound {MAX_RSS_SLOPE:g})" if flat.rss_slope is not None else ""
        memory = f"{flat.rss_mb or 0:.0f} MB, {slope or 'too short a life for a slope'}"
        rows.append((name, f"{memory}; {flat.descriptors} descriptors at most (bound {found.max_descriptors})"))
    rows += [(f"away from {o.began:.0f} to {o.ended:.0f} s", f"{o.what}; {_during(found, o)}") for o in found.outages]
    return rows


def _during(found: Findings, outage: Outage) -> str:
    rates = [sample.items_s for sample in found.samples if outage.began <= sample.at <= outage.ended]
    return f"{median(rates):.0f} items a second meanwhile" if rates else "no sample meanwhile"


def _percentiles(latencies_s: Sequence[float]) -> str:
    told = ", ".join(f"{name} {value:.0f} ms" for name, value in _latency(latencies_s).items() if value is not None)
    return told or "none"


def _latency(latencies_s: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(latencies_s)
    return {f"p{100 * share:g}": percentile_ms(ordered, share) for share in (0.5, 0.95, 0.99, 0.999)}


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counted.items(), key=lambda entry: -entry[1]))


def document(found: Findings) -> dict[str, Any]:
    """The JSON report, what counts first."""
    book, kept = found.book, found.kept
    return {
        "passed": found.passed,
        "violations": dict(found.violations.counts),
        "examples": dict(found.violations.examples),
        "seconds": round(found.seconds, 1),
        "items": kept.items,
        "traces": kept.traces,
        "outcomes": kept.outcomes,
        "rewards_s": book.rewarded / found.seconds,
        "latency_ms": _latency(book.latencies_s),
        "shadow_latency_ms": _latency(book.shadow_latencies_s),
        "answers_lost": kept.answers_lost,
        "answered_otherwise": kept.answered_otherwise,
        "pins": kept.pins,
        "activations": found.activations,
        "requests": dict(book.requests),
        "statuses": dict(book.statuses),
        "errors": dict(book.errors),
        "flags": dict(book.flags),
        "degraded_answers": book.degraded,
        "flatness": {name: flat._asdict() for name, flat in found.flatness.items()},
        "bounds": {"rss_mb_minute": MAX_RSS_SLOPE, "descriptors": found.max_descriptors},
        "outages": [outage._asdict() for outage in found.outages],
        "settings": dict(found.settings),
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "samples": [sample.as_json() for sample in found.samples],
    }


def write(path: Path, found: Findings) -> None:
    """The JSON report as a file."""
    path.write_text(json.dumps(document(found), indent=1), encoding="utf-8")
