"""The comparison as a table, a JSON file and a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from services.trainer.evaluate.measures import Figures
from services.trainer.evaluate.ratings import Ratings


class Comparison(NamedTuple):
    """What was found: figures by entrant in the order given, ratings, the tournament's bill, the judge's validity."""

    task: str
    prompts: int
    figures: Mapping[str, Figures]
    ratings: Ratings | None
    bill: Figures
    validity: Figures


def table(found: Comparison) -> str:
    """A Markdown table, an entrant a row."""
    elo = {rating.name: rating for rating in found.ratings.entrants} if found.ratings else {}
    names = list(dict.fromkeys(name for figures in found.figures.values() for name in figures))
    head = ["policy", *names, *(["Elo", "interval"] if elo else [])]
    rows = [head, ["---"] * len(head)]
    for entrant, figures in found.figures.items():
        row = [entrant, *(f"{figures[name]:.1f}" if name in figures else "" for name in names)]
        if elo:
            rating = elo.get(entrant)
            row += [f"{rating.elo:.0f}", f"{rating.low:.0f} to {rating.high:.0f}"] if rating else ["", ""]
        rows.append(row)
    lines = [f"Task {found.task}, {found.prompts} prompts.", "", *(f"| {' | '.join(row)} |" for row in rows)]
    if found.ratings:
        lines += ["", f"{found.ratings.games} games; the first place is worth {found.ratings.first_place:+.0f} Elo."]
    for title, figures in (("Tournament", found.bill), ("Judge on labelled pairs", found.validity)):
        if figures:
            lines += ["", f"{title}: {', '.join(f'{name} {value:g}' for name, value in figures.items())}."]
    return "\n".join(lines) + "\n"


def write_report(found: Comparison, folder: Path) -> None:
    """`comparison.md`, `comparison.json`, and `comparison.png` where there are entrants."""
    (folder / "comparison.md").write_text(table(found), encoding="utf-8")
    told: dict[str, Any] = found._asdict()
    if found.ratings:
        told["ratings"] = found.ratings._asdict() | {"entrants": [r._asdict() for r in found.ratings.entrants]}
    (folder / "comparison.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    if found.figures:
        _plot(found, folder / "comparison.png")


def _plot(found: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure

    names = list(found.figures)
    kinds = [kind for kind in next(iter(found.figures.values())) if kind != "undecided"]
    figure = Figure(figsize=(3.2 * (len(kinds) + bool(found.ratings)), 3.2), layout="constrained")
    axes = figure.subplots(1, len(kinds) + bool(found.ratings), squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=False):
        axis.barh(names, [found.figures[name].get(kind, 0.0) for name in names], color="#4c78a8")
        axis.set_title(kind)
    if found.ratings:
        _draw_ratings(axes[-1], found.ratings, names)
    for axis in axes:
        axis.invert_yaxis()
    figure.savefig(path, dpi=120)


def _draw_ratings(axis: Any, ratings: Ratings, names: Sequence[str]) -> None:
    of = {rating.name: rating for rating in ratings.entrants}
    played = [of[name] for name in names if name in of]
    spread = [[max(0.0, r.elo - r.low) for r in played], [max(0.0, r.high - r.elo) for r in played]]
    axis.errorbar([r.elo for r in played], [r.name for r in played], xerr=spread, fmt="o", color="#4c78a8")
    axis.set_title("Elo")
