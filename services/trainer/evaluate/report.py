"""The comparison as a Markdown table, a JSON file and a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from services.trainer.evaluate.metrics import UNDECIDED, Metrics
from services.trainer.evaluate.ratings import Ratings

_COLOUR = "#4c78a8"


class Comparison(NamedTuple):
    """Results of an evaluation: `figures` holds each entrant's metrics, `bill` the tournament's usage and cost."""

    task: str
    prompts: int
    figures: Mapping[str, Metrics]
    ratings: Ratings | None
    bill: Metrics
    validity: Metrics


def table(comparison: Comparison) -> str:
    """A Markdown table with a row per entrant."""
    ratings = comparison.ratings
    elo = {rating.name: rating for rating in ratings.entrants} if ratings else {}
    names = list(dict.fromkeys(name for metrics in comparison.figures.values() for name in metrics))
    head = ["policy", *names, *(["Elo", "interval"] if elo else [])]
    rows = [head, ["---"] * len(head)]
    for entrant, metrics in comparison.figures.items():
        row = [entrant, *(f"{metrics[name]:.1f}" if name in metrics else "" for name in names)]
        if elo:
            rating = elo.get(entrant)
            row += [f"{rating.elo:.0f}", f"{rating.low:.0f} to {rating.high:.0f}"] if rating else ["", ""]
        rows.append(row)
    lines = [f"Task {comparison.task}"]
    if comparison.figures:
        lines = [f"Task {comparison.task}, {comparison.prompts} prompts.", "", *(f"| {' | '.join(r)} |" for r in rows)]
    if ratings:
        lines += ["", f"{ratings.games} games; the judge's first-position bias is {ratings.first_place:+.0f} Elo."]
    for title, metrics in (("Tournament", comparison.bill), ("Judge on labelled pairs", comparison.validity)):
        if metrics:
            lines += ["", f"{title}: {', '.join(f'{name} {value:g}' for name, value in metrics.items())}."]
    return "\n".join(lines) + "\n"


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.md`, `comparison.json`, and, if there are entrants, `comparison.png`."""
    (folder / "comparison.md").write_text(table(comparison), encoding="utf-8")
    content: dict[str, Any] = comparison._asdict()
    if ratings := comparison.ratings:
        content["ratings"] = ratings._asdict() | {"entrants": [rating._asdict() for rating in ratings.entrants]}
    (folder / "comparison.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    if comparison.figures:
        _plot(comparison, folder / "comparison.png")


def _plot(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    entrants = list(comparison.figures)
    metrics = [name for name in next(iter(comparison.figures.values())) if name != UNDECIDED]
    columns = len(metrics) + bool(comparison.ratings)
    figure = Figure(figsize=(3.2 * columns, 3.2), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=False):
        axis.barh(entrants, [comparison.figures[name].get(metric, 0.0) for name in entrants], color=_COLOUR)
        axis.set_title(metric)
    if comparison.ratings:
        _plot_ratings(axes[-1], comparison.ratings, entrants)
    for axis in axes:
        axis.invert_yaxis()
    figure.savefig(path, dpi=120)


def _plot_ratings(axis: Any, ratings: Ratings, entrants: Sequence[str]) -> None:
    by_name = {rating.name: rating for rating in ratings.entrants}
    rated = [by_name[name] for name in entrants if name in by_name]
    errors = [[max(0.0, r.elo - r.low) for r in rated], [max(0.0, r.high - r.elo) for r in rated]]
    axis.errorbar([r.elo for r in rated], [r.name for r in rated], xerr=errors, fmt="o", color=_COLOUR)
    axis.set_title("Elo")
