"""`make bench-training`: the same training runs under a fixed rubric and under Regrade, on this machine.

Real parts: GRPO by TRL, both services, Valkey, llama.cpp as judge and meta-judge. A run that has ended is kept and not
run again, so an interrupted comparison goes on where it was.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.shutdown import run_and_exit
from benchmarks.training import results
from benchmarks.training.held_out import measured
from benchmarks.training.run import ARMS, Spec, policy_of, train

OUT = Path(__file__).parents[1] / "out" / "training"
TASKS = ("essay_writing", "math_reasoning")


def main() -> int:
    """Run what has not been run, measure the policies on held-out prompts, write figures and picture."""
    args = _arguments()
    console = Console(width=160, highlight=False)
    args.out.mkdir(parents=True, exist_ok=True)
    policy = policy_of(args.out)
    found: list[dict[str, Any]] = []
    for number, spec in enumerate(_specs(args), 1):
        console.print(f"run {number}/{len(args.tasks) * args.seeds * len(ARMS)}: {spec.name}")
        found.append(train(spec, policy, args.out, console.print))
    held_out = {task: measured(task, found, policy, args.out, args.held_out) for task in args.tasks}
    told = results.document(found, held_out, args.steps)
    (args.results / "training.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    results.draw(args.results / "training.svg", found)
    console.print(results.table(told), markup=False)
    console.print(f"written: {args.results / 'training.json'}, {args.results / 'training.svg'}")
    return 0


def _specs(args: argparse.Namespace) -> Iterator[Spec]:
    """Seed by seed, so that an interrupted comparison holds whole seeds."""
    for seed, task, arm in product(range(args.seeds), args.tasks, ARMS):
        yield Spec(task, arm, seed, args.steps, args.config or Path("configs/small") / f"{task}.yaml")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-training", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--config", type=Path, help="trainer's YAML; else configs/small/<task>.yaml")
    parser.add_argument("--held-out", type=int, default=40, help="prompts that no run was trained on")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the runs, kept between calls")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of figures and picture")
    return parser.parse_args()


if __name__ == "__main__":
    run_and_exit(main)
