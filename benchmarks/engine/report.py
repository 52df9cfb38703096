"""What `bench-engine` says: samples, headline figures (pure functions), a table, and the JSON."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

TARGETS = {"regrade_over_paper": 7.0, "prefill_efficiency": 0.8}
"""What the headline figures have to be, at least."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: items judged in so many seconds, and the engine's tokens meanwhile.

    `computed` are prompt tokens that the engine did not have cached, `distinct` the prefix tree's of all prompts sent.
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
        """Judged items a second."""
        return self.items / self.wall_s

    @property
    def computed_s(self) -> float:
        """Prompt tokens computed a second."""
        return self.computed / self.wall_s

    @property
    def efficiency(self) -> float:
        """Distinct over computed prompt tokens; above 1 where what the engine wrote is asked again and was cached."""
        return self.distinct / self.computed


@dataclass(slots=True)
class Row:
    """A contender. Sample n of every row is of round n."""

    name: str
    shard: int | None = None
    samples: list[Sample] = field(default_factory=list)

    def figures(self, name: str) -> list[float]:
        """One of the samples' figures."""
        return [float(getattr(sample, name)) for sample in self.samples]

    def per_item(self, name: str) -> float:
        """The median of a count of tokens for each item."""
        return statistics.median(float(getattr(s, name)) / (s.items + s.failed) for s in self.samples)


def ratio(over: Row, under: Row, figure: str) -> float:
    """The median over the rounds of one row's figure over the other's in the same round."""
    pairs = zip(over.figures(figure), under.figures(figure), strict=True)
    return statistics.median(a / b for a, b in pairs)


def headlines(regrade: Row, paper: Row, limit: Row) -> dict[str, float]:
    """The figures that the targets are about, of `regrade`, the `expected` mode at the default shard size."""
    return {
        "regrade_over_paper": ratio(regrade, paper, "items_s"),
        "prefill_efficiency": statistics.median(regrade.figures("efficiency")),
        "share_of_prefill_limit": ratio(regrade, limit, "computed_s"),
    }


def document(found: Mapping[str, float], rows: Sequence[Row], limit: Row, about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON: the headline figures at the top level, then how they came about."""
    return {
        **found,
        **about,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "prefill_limit_tokens_s": limit.figures("computed_s"),
        "rows": [asdict(row) | {"items_s": row.figures("items_s")} for row in rows],
    }


def show(console: Console, found: Mapping[str, float], rows: Sequence[Row], paper: Row, limit: Row) -> None:
    """The table and, below it, the headline figures against their targets."""
    table = Table(title="Five criteria, groups of eight, on a real vLLM")
    table.add_column("contender")
    for column in ("items/s\nmin", "\nmedian", "\nmax", "x the\npaper's", "tokens an item\ndistinct", "\ncomputed"):
        table.add_column(column, justify="right")
    for column in ("\nwritten", "prefill\nefficiency", "share of\nlimit", "without\nreward"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*_cells(row, paper, limit))
    console.print(table)
    rates = limit.figures("computed_s")
    console.print(f"the engine's prefill limit: {_spread(rates, 0)} tokens/s (min, median, max)", markup=False)
    for name, value in found.items():
        bound = TARGETS.get(name)
        wanted = f" (at least {bound} wanted)" if bound else ""
        style = "" if bound is None else "green" if value >= bound else "red"
        console.print(f"{name}: {value:.3f}{wanted}", style=style, markup=False)


def _cells(row: Row, paper: Row, limit: Row) -> list[str]:
    speed = row.figures("items_s")
    return [
        row.name,
        *(f"{value:.2f}" for value in (min(speed), statistics.median(speed), max(speed))),
        f"{ratio(row, paper, 'items_s'):.2f}",
        *(f"{row.per_item(name):,.0f}" for name in ("distinct", "computed", "generated")),
        f"{statistics.median(row.figures('efficiency')):.2f}",
        f"{ratio(row, limit, 'computed_s'):.2f}",
        str(sum(sample.failed for sample in row.samples)),
    ]


def _spread(figures: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in (min(figures), statistics.median(figures), max(figures)))
