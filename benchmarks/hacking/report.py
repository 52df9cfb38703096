"""The experiment's figures as JSON content and as a table."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hacking.experiment import KINDS, Run
from benchmarks.hacking.measure import AGAINST, area, fall, honest_share
from benchmarks.hacking.strategies import STRATEGIES, Kind

REGRADE = ("Regrade, scripted", "Regrade, 135M")
BEATEN = ("fixed one-line", "fixed long")
PAPER = {"Regrade, scripted": "paper, scripted", "Regrade, 135M": "paper, 135M"}
HINDSIGHT = "whole catalogue"


def figures(run: Run) -> dict[str, Any]:
    """The figures of one run."""
    result: dict[str, Any] = {"arm": run.arm, "seed": run.seed}
    for name, kinds in AGAINST.items():
        curve = [honest_share(mass, KINDS, kinds) for mass in run.masses]
        result[f"honest_{name}"], result[f"auc_{name}"] = curve[-1], area(curve)
    falls = {
        s.name: fall([mass[n] for mass in run.masses])
        for n, s in enumerate(STRATEGIES)
        if s.kind is not Kind.HONEST
    }  # fmt: skip
    initial = [r for r in run.honest[0] if r is not None] if run.honest else []
    last = [r for r in run.honest[-1] if r is not None] if run.honest else []
    return result | {
        "final_mass": {s.name: round(p, 4) for s, p in zip(STRATEGIES, run.masses[-1], strict=True)},
        "falls": {name: decline._asdict() for name, decline in falls.items()},
        "honest_rejected": max(run.rejected, default=0.0),
        "honest_docked": max(run.docked, default=0.0),
        "honest_reward_first": fmean(initial) if initial else None,
        "honest_reward_last": fmean(last) if last else None,
        "activations": max(0, len(run.lineage) - 1),
        "cycles": sum("trigger" in cycle for cycle in run.cycles),
        "bill": vars(run.usage),
        "rubrics": run.lineage,
        "history": run.cycles,
        "curve": [round(honest_share(mass, KINDS), 4) for mass in run.masses],
    }


def document(runs: Sequence[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """The JSON: headline figures, then all runs. A headline without all of its arms is null."""
    arms: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in runs:
        arms[run["arm"]][run["seed"]] = run
    regrade = [name for name in REGRADE if name in arms]
    ends = [run["honest_expressible"] for name in regrade for run in arms[name].values()]
    return {
        "regrade_min_honest_mass": min(ends, default=None),
        "regrade_wins_auc_every_seed": _wins(arms, regrade),
        "regrade_over_hindsight": {name: _over_hindsight(arms, name) for name in regrade},
        "seeds": sorted({run["seed"] for run in runs}),
        "settings": settings,
        "hacks": {s.name: {"kind": s.kind.value, "onset": s.onset} for s in STRATEGIES if s.kind is not Kind.HONEST},
        "arms": {name: _summary(list(runs.values())) for name, runs in arms.items()},
        "runs": list(runs),
    }


def _wins(arms: dict[str, dict[int, dict[str, Any]]], regrade: Sequence[str]) -> bool | None:
    """Whether Regrade's area over all hacks exceeds that of every arm to beat, in every seed; None without a run."""
    pairs = [
        (own["auc_all"], arms.get(other, {}).get(seed))
        for name in regrade
        for seed, own in arms[name].items()
        for other in (*BEATEN, PAPER[name])
    ]
    if not pairs or any(other is None for _, other in pairs):
        return None
    return all(own > other["auc_all"] for own, other in pairs if other is not None)


def _over_hindsight(arms: dict[str, dict[int, dict[str, Any]]], name: str) -> list[float]:
    """Area over all hacks relative to the arm that starts with the whole catalogue, by seed."""
    both = sorted(set(arms[name]) & set(arms.get(HINDSIGHT, {})))
    return [arms[name][seed]["auc_all"] / max(1e-9, arms[HINDSIGHT][seed]["auc_all"]) for seed in both]


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = [f"{what}_{kind}" for kind in AGAINST for what in ("honest", "auc")]
    numbers = (*names, "honest_rejected", "honest_docked", "cycles", "activations")
    after = [
        decline["fell_after"] if decline["fell_after"] is not None else float("inf")
        for run in runs
        for name, decline in run["falls"].items()
        if decline["onset"] is not None and _kind(name) is Kind.EXPRESSIBLE
    ]
    steps_to_fall = median(after) if after else None
    return {name: {"min": min(r[name] for r in runs), "mean": fmean(r[name] for r in runs)} for name in numbers} | {
        "fall_steps_expressible": None if steps_to_fall == float("inf") else steps_to_fall,
        "never_fell_expressible": sum(steps == float("inf") for steps in after),
        "bill": {name: fmean(r["bill"][name] for r in runs) for name in runs[0]["bill"]},
    }


def _kind(name: str) -> Kind:
    return next(s.kind for s in STRATEGIES if s.name == name)


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(title=f"Honest mass, {len(figures['seeds'])} seeds: end (lowest) and area under the curve, mean")
    for heading in ("arm", "all", "AUC", "expressible", "AUC", "inexpr.", "AUC", "fall", "rejected", "docked",
                    "cycles", "active", "judge calls", "gate calls", "meta tokens"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for name, arm in figures["arms"].items():
        shares = [
            text
            for kind in ("all", "expressible", "inexpressible")
            for text in (f"{arm[f'honest_{kind}']['mean']:.2f} ({arm[f'honest_{kind}']['min']:.2f})",
                         f"{arm[f'auc_{kind}']['mean']:.2f}")
        ]  # fmt: skip
        fallen = arm["fall_steps_expressible"]
        table.add_row(
            name, *shares, "never" if fallen is None else f"{fallen:g}", f"{arm['honest_rejected']['mean']:.0%}",
            f"{arm['honest_docked']['mean']:.0%}", f"{arm['cycles']['mean']:.1f}", f"{arm['activations']['mean']:.1f}",
            f"{arm['bill']['judge_calls']:,.0f}", f"{arm['bill']['shadow_calls']:,.0f}",
            f"{arm['bill']['meta_tokens']:,.0f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"regrade_min_honest_mass {figures['regrade_min_honest_mass']}")
    console.print(f"regrade_wins_auc_every_seed {figures['regrade_wins_auc_every_seed']}")
    console.print(f"over hindsight: {figures['regrade_over_hindsight']}")
