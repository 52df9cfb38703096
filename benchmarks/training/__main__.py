"""`make bench-training`: the same training runs with a fixed rubric and with Regrade, on this machine.

GRPO by TRL, both services, Valkey, llama.cpp as judge and meta-judge. Completed runs are kept and not repeated, so
that an interrupted comparison can be continued.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from rich.console import Console

from benchmarks.common.output import OUT, write_json
from benchmarks.common.shutdown import run_and_exit
from benchmarks.training import results
from benchmarks.training.held_out import evaluate_held_out
from benchmarks.training.run import ARMS, Spec, starting_policy, train

TASKS = ("essay_writing", "math_reasoning")


def main() -> int:
    """Run what is missing, evaluate the policies on held-out prompts, write figures and plot."""
    args = _arguments()
    console = Console(width=160, highlight=False)
    args.out.mkdir(parents=True, exist_ok=True)
    policy = starting_policy(args.out)
    specs = list(_specs(args))
    runs = []
    for number, spec in enumerate(specs, 1):
        console.print(f"run {number}/{len(specs)}: {spec.name}")
        runs.append(train(spec, policy, args.out, console.print))
    held_out = {task: evaluate_held_out(task, runs, policy, args.out, args.held_out) for task in args.tasks}
    content = results.document(runs, held_out, args.steps)
    path = write_json(args.results / "training.json", content)
    results.draw(args.results / "training.svg", runs)
    console.print(results.table(content), markup=False)
    console.print(f"written: {path}, {args.results / 'training.svg'}")
    return 0


def _specs(args: argparse.Namespace) -> Iterator[Spec]:
    """All runs, seed by seed, so that an interrupted comparison has complete seeds."""
    for seed, task, arm in product(range(args.seeds), args.tasks, ARMS):
        yield Spec(task, arm, seed, args.steps, args.config or Path("configs/small") / f"{task}.yaml")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-training", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="tasks to train on")
    parser.add_argument("--seeds", type=int, default=2, help="runs per task and arm")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps per run")
    parser.add_argument("--config", type=Path, help="YAML file of the trainer; default configs/small/<task>.yaml")
    parser.add_argument("--held-out", type=int, default=40, help="number of held-out prompts")
    parser.add_argument("--out", type=Path, default=OUT / "training", help="folder of the runs, kept between calls")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of figures and plot")
    return parser.parse_args()


if __name__ == "__main__":
    run_and_exit(main)
