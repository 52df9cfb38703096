"""The results of `bench-engine`: headline figures (pure functions), a table, and the JSON."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

TARGETS = {"regrade_over_paper": 7.0, "prefill_efficiency": 0.8}
"""Lower bounds of the headline figures."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One measurement: items judged, their duration, and the engine's tokens.

    `computed`: prompt tokens that were not in the prefix cache. `distinct`: tokens of the prefix tree of all prompts.
    """

    items: int
    failed: int
    wall_s: float
    prompt: float
    computed: float
    generated: float
    distinct: int

    @property
    def items_s(self) -> float:
        """Judged items per second."""
        return self.items / self.wall_s

    @property
    def computed_s(self) -> float:
        """Prompt tokens computed per second."""
        return self.computed / self.wall_s

    @property
    def efficiency(self) -> float:
        """Distinct over computed prompt tokens; above 1 where a prompt repeats text that the engine generated."""
        return self.distinct / self.computed


@dataclass(slots=True)
class ContenderResult:
    """A contender's results; `samples[n]` is of round n."""

    name: str
    criteria_per_call: int | None = None
    samples: list[RoundResult] = field(default_factory=list)

    def figures(self, name: str) -> list[float]:
        """A figure of each round."""
        return [float(getattr(sample, name)) for sample in self.samples]

    def per_item(self, name: str) -> float:
        """The median over the rounds of a token count per item."""
        return statistics.median(float(getattr(s, name)) / (s.items + s.failed) for s in self.samples)


def ratio(over: ContenderResult, under: ContenderResult, figure: str) -> float:
    """The median over the rounds of the ratio of two contenders' figures within the same round."""
    pairs = zip(over.figures(figure), under.figures(figure), strict=True)
    return statistics.median(a / b for a, b in pairs)


def headlines(regrade: ContenderResult, paper: ContenderResult, limit: ContenderResult) -> dict[str, float]:
    """The headline figures of `regrade`, mode `expected` with the default number of criteria per call."""
    return {
        "regrade_over_paper": ratio(regrade, paper, "items_s"),
        "prefill_efficiency": statistics.median(regrade.figures("efficiency")),
        "share_of_prefill_limit": ratio(regrade, limit, "computed_s"),
    }


def document(
    figures: Mapping[str, float],
    results: Sequence[ContenderResult],
    limit: ContenderResult,
    conditions: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON: headline figures at the top level, then the conditions and all results."""
    return {
        **figures,
        **conditions,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "prefill_limit_tokens_s": limit.figures("computed_s"),
        "rows": [asdict(result) | {"items_s": result.figures("items_s")} for result in results],
    }


def show(
    console: Console,
    figures: Mapping[str, float],
    results: Sequence[ContenderResult],
    paper: ContenderResult,
    limit: ContenderResult,
) -> None:
    """Print the table and, below it, the headline figures with their targets."""
    table = Table(title="Five criteria, groups of eight, on a real vLLM")
    table.add_column("contender")
    for column in ("items/s\nmin", "\nmedian", "\nmax", "x the\npaper's", "tokens/item\ndistinct", "\ncomputed"):
        table.add_column(column, justify="right")
    for column in ("\ngenerated", "prefill\nefficiency", "share of\nlimit", "without\nreward"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(*_cells(result, paper, limit))
    console.print(table)
    rates = limit.figures("computed_s")
    console.print(f"prefill limit of the engine: {_spread(rates, 0)} tokens/s (min, median, max)", markup=False)
    for name, value in figures.items():
        bound = TARGETS.get(name)
        target = f" (target: at least {bound})" if bound else ""
        style = "" if bound is None else "green" if value >= bound else "red"
        console.print(f"{name}: {value:.3f}{target}", style=style, markup=False)


def _cells(result: ContenderResult, paper: ContenderResult, limit: ContenderResult) -> list[str]:
    speed = result.figures("items_s")
    return [
        result.name,
        *(f"{value:.2f}" for value in (min(speed), statistics.median(speed), max(speed))),
        f"{ratio(result, paper, 'items_s'):.2f}",
        *(f"{result.per_item(name):,.0f}" for name in ("distinct", "computed", "generated")),
        f"{statistics.median(result.figures('efficiency')):.2f}",
        f"{ratio(result, limit, 'computed_s'):.2f}",
        str(sum(sample.failed for sample in result.samples)),
    ]


def _spread(figures: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in (min(figures), statistics.median(figures), max(figures)))
