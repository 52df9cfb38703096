"""The result of a soak: progress lines, a table, and JSON."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.soak.answer_log import AnswerLog, Violations
from benchmarks.soak.assessment import MAX_RSS_SLOPE, Assessment, MemoryTrend
from benchmarks.soak.faults import Outage
from benchmarks.soak.monitor import MonitorSample, percentile_ms


@dataclass(frozen=True, slots=True)
class SoakResult:
    """The data of a run."""

    seconds: float
    answers: AnswerLog
    assessment: Assessment
    violations: Violations
    memory: Mapping[str, MemoryTrend]
    outages: Sequence[Outage]
    samples: Sequence[MonitorSample]
    activations: int
    max_descriptors: int
    settings: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether there are no violations."""
        return not self.violations.counts


def progress(sample: MonitorSample, seconds: float, answers: AnswerLog) -> str:
    """A progress line."""
    memory = " ".join("   -" if rss is None else f"{rss:4.0f}" for rss in sample.rss_mb)
    latency = "     -" if sample.p50_ms is None else f"{sample.p50_ms:4.0f}/{sample.p99_ms or 0:<5.0f}"
    statuses = " ".join(f"{status}:{n}" for status, n in sorted(answers.statuses.items()) if status.isdigit())
    violated = f"  VIOLATED {dict(answers.violations.counts)}" if answers.violations.counts else ""
    outage = f"  down: {sample.outage}" if sample.outage else ""
    return (
        f"{sample.at:5.0f} of {seconds:.0f} s  {sample.items_s:5.0f} items/s  p50/p99 {latency} ms  "
        f"RSS {memory} MB  {statuses}{outage}{violated}"
    )


def show(console: Console, result: SoakResult) -> None:
    """Print the table."""
    table = Table(title="Soak", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in _rows(result):
        table.add_row(name, value)
    console.print(table)
    for rule, count in result.violations.counts.items():
        console.print(f"violated {count} times: {rule}", style="red", markup=False)
        for example in result.violations.examples[rule]:
            console.print(f"    {example}", markup=False)
    console.print("passed" if result.passed else "failed", style="green" if result.passed else "red")


def _rows(result: SoakResult) -> list[tuple[str, str]]:
    answers, assessment = result.answers, result.assessment
    rows = [
        ("requests", _counts(answers.requests)),
        ("answered", _counts(answers.statuses)),
        (
            "rewards",
            f"{answers.rewarded} ({answers.cached} from the store), {answers.rewarded / result.seconds:.0f} per second",
        ),
        ("latency", _percentiles(answers.latencies_s)),
        ("latency of candidates", _percentiles(answers.shadow_latencies_s)),
        ("without a reward", _counts(answers.errors) or "none"),
        ("flags", _counts(answers.flags) or "none"),
        ("degraded answers", str(answers.degraded)),
        ("items, traces, outcomes", f"{assessment.items}, {assessment.traces}, {assessment.outcomes}"),
        ("traces without an answer", str(assessment.answers_lost)),
        ("degraded answers that differ", str(assessment.differing_answers)),
        ("pins, activations", f"{assessment.pins}, {result.activations}"),
    ]
    for name, trend in result.memory.items():
        slope = f"{trend.rss_slope:+.2f} MB per minute (bound {MAX_RSS_SLOPE:g})" if trend.rss_slope is not None else ""
        memory = f"{trend.rss_mb or 0:.0f} MB, {slope or 'lifetime too short for a slope'}"
        rows.append((name, f"{memory}; {trend.descriptors} descriptors at most (bound {result.max_descriptors})"))
    rows += [(f"down from {o.began:.0f} to {o.ended:.0f} s", f"{o.what}; {_during(result, o)}") for o in result.outages]
    return rows


def _during(result: SoakResult, outage: Outage) -> str:
    back = "" if outage.back_s is None else f"; answers from the new primary after {outage.back_s:.2f} s"
    rates = [sample.items_s for sample in result.samples if outage.began <= sample.at <= outage.ended]
    return (f"{median(rates):.0f} items per second" if rates else "no sample") + back


def _percentiles(latencies_s: Sequence[float]) -> str:
    text = ", ".join(f"{name} {value:.0f} ms" for name, value in _latency(latencies_s).items() if value is not None)
    return text or "none"


def _latency(latencies_s: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(latencies_s)
    return {f"p{100 * share:g}": percentile_ms(ordered, share) for share in (0.5, 0.95, 0.99, 0.999)}


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counted.items(), key=lambda entry: -entry[1]))


def document(result: SoakResult) -> dict[str, Any]:
    """The JSON report, the outcome first."""
    answers, assessment = result.answers, result.assessment
    return {
        "passed": result.passed,
        "violations": dict(result.violations.counts),
        "examples": dict(result.violations.examples),
        "seconds": round(result.seconds, 1),
        "items": assessment.items,
        "traces": assessment.traces,
        "outcomes": assessment.outcomes,
        "rewards_s": answers.rewarded / result.seconds,
        "latency_ms": _latency(answers.latencies_s),
        "shadow_latency_ms": _latency(answers.shadow_latencies_s),
        "answers_lost": assessment.answers_lost,
        "differing_answers": assessment.differing_answers,
        "pins": assessment.pins,
        "activations": result.activations,
        "requests": dict(answers.requests),
        "statuses": dict(answers.statuses),
        "errors": dict(answers.errors),
        "flags": dict(answers.flags),
        "degraded_answers": answers.degraded,
        "memory": {name: trend._asdict() for name, trend in result.memory.items()},
        "bounds": {"rss_mb_minute": MAX_RSS_SLOPE, "descriptors": result.max_descriptors},
        "outages": [outage._asdict() for outage in result.outages],
        "settings": dict(result.settings),
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "samples": [sample.as_json() for sample in result.samples],
    }
