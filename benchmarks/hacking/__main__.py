"""`make bench-hacking`: every arm with every seed on the real services; a table, a plot and all figures."""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from redis import Redis
from rich.console import Console

from benchmarks.common.output import OUT, write_json
from benchmarks.common.shutdown import run_and_exit
from benchmarks.common.stack import prefixed, running_valkey
from benchmarks.hacking import plot, report, scripted_meta_judge
from benchmarks.hacking.experiment import (
    ARMS,
    GROUP,
    GROUPS_A_STEP,
    LEARNING_RATE,
    Arm,
    Endpoints,
    ProgressCallback,
    Run,
    Training,
)
from benchmarks.hacking.strategies import STRATEGIES
from services.kit.store.keys import FENCE_KEY
from services.kit.store.redis import connect
from services.local.engine import MODEL_NAME
from services.local.processes import Processes

_SLOTS = 4
_SEEDS, _STEPS = 5, 100
_QUICK_SEEDS, _QUICK_STEPS = 1, 60
_PROGRESS_S = 15.0
_CYCLES = {
    "every_traces": 128, "samples": 2, "meta_judge_max_tokens": 300, "meta_judge_in_flight": 2, "max_llm_criteria": 4,
    "gate_calls": 1_000,
}  # fmt: skip
"""Deviations from the service's defaults, because the policy changes within 30 steps and the machine has two cores.
The same for all arms."""
_FENCE_KEY = "bench-hacking"
"""A fixed key, where a service draws a random one, makes prompts and the judge's answers reproducible."""


def main() -> int:
    """Run all arms. On any exit, the completed runs are reported."""
    args = _arguments()
    console = Console(width=200)
    args.out.mkdir(parents=True, exist_ok=True)
    arms = [arm for arm in ARMS if not args.arms or any(text in arm.name for text in args.arms)]
    settings = {
        "steps": args.steps, "group": GROUP, "groups_a_step": GROUPS_A_STEP, "learning_rate": LEARNING_RATE,
        "judge": args.judge_model, "cycles": _CYCLES,
    }  # fmt: skip
    runs = [] if args.again else _previous_runs(args.out, settings)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hacking-", dir=args.out) as folder,
            _running_services(Path(folder), args) as urls,
        ):
            asyncio.run(_run_all(urls, arms, args, console, runs, settings))
    finally:
        if runs:
            report.show(console, _write(runs, settings, args.out))
            console.print(f"written: {args.out / 'hacking.json'}, {args.out / 'hacking.png'}")
    missing = {(arm.name, seed) for arm in arms for seed in range(args.seeds)} - _completed(runs)
    return 1 if missing else 0


def _previous_runs(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs in `hacking.json`, if it has the same settings."""
    path = out / "hacking.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return list(content["runs"]) if content.get("settings") == settings else []


def _completed(runs: list[dict[str, Any]]) -> set[tuple[str, int]]:
    return {(run["arm"], run["seed"]) for run in runs}


def _write(runs: list[dict[str, Any]], settings: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the figures so far and their plot; returns the figures."""
    names = [arm.name for arm in ARMS]
    runs = sorted(runs, key=lambda run: (names.index(run["arm"]), run["seed"]))
    figures = report.document(runs, settings)
    write_json(out / "hacking.json", figures)
    plot.draw(out / "hacking.png", runs, [strategy.onset for strategy in STRATEGIES])
    return figures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-hacking", description=__doc__)
    parser.add_argument("--seeds", type=int, default=_SEEDS, help="runs per arm")
    parser.add_argument("--steps", type=int, default=_STEPS, help="training steps per run")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_SEEDS} seed, {_QUICK_STEPS} steps")
    parser.add_argument("--arms", nargs="+", default=[], help="only arms whose name contains one of these")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no further run after this time; 0: run all")
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads of the engine; 1 if other programs use the cores"
    )
    parser.add_argument("--judge-url", default="", help="your own judge engine, without /v1")
    parser.add_argument("--judge-model", default=MODEL_NAME, help="its model; also that of the small meta-judge")
    parser.add_argument("--again", action="store_true", help="repeat the runs that hacking.json in `--out` has")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of hacking.json and hacking.png")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps = _QUICK_SEEDS, _QUICK_STEPS
    return args


@contextmanager
def _running_services(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, str]]:
    """The URLs of Valkey, the engine and the reward service, all ready; logs go to `folder`."""
    with running_valkey() as valkey, Processes(folder) as processes:
        with Redis(port=valkey.port) as client:
            client.set(FENCE_KEY, _FENCE_KEY)
        engine = args.judge_url
        if not engine:
            command = ["services.local.engine", "--slots", str(_SLOTS), "--threads", str(args.threads)]
            _, engine = processes.start_server("engine", command, ready="/health")
        url = f"redis://127.0.0.1:{valkey.port}/0"
        env = {
            "REDIS_URL": url, "JUDGE_URL": engine, "JUDGE_MODEL": args.judge_model, "JUDGE_IN_FLIGHT": str(_SLOTS),
            "SHADOW_IN_FLIGHT": str(_SLOTS), "LOG_LEVEL": "WARNING", "JUDGE_TIMEOUT_S": "600",
        }  # fmt: skip
        _, reward = processes.start_server(
            "reward", ["services.reward", "--port", "0"], ready="/readyz", env=prefixed("REGRADE_REWARD_", env)
        )
        yield {"redis": url, "engine": engine, "reward": reward}


async def _run_all(
    urls: dict[str, str],
    arms: list[Arm],
    args: argparse.Namespace,
    console: Console,
    runs: list[dict[str, Any]],
    settings: dict[str, Any],
) -> None:
    """All arms for each seed in turn, so that an interrupted experiment has complete seeds."""
    runner, scripted_url = await scripted_meta_judge.serve()
    redis = connect(SecretStr(urls["redis"]))
    endpoints = Endpoints(redis, urls["reward"], urls["engine"], args.judge_model, scripted_url)
    began, completed = time.monotonic(), _completed(runs)
    pending = [(arm, seed) for seed in range(args.seeds) for arm in arms if (arm.name, seed) not in completed]
    try:
        for done, (arm, seed) in enumerate(pending):
            if args.minutes and time.monotonic() - began > 60.0 * args.minutes:
                return
            training = Training(endpoints, arm, seed, args.steps, _CYCLES)
            report_progress = _progress_printer(console, args.steps, done, len(pending), began)
            runs.append(report.figures(await training.run_all_steps(report_progress)))
            _write(runs, settings, args.out)
            last = runs[-1]
            console.print(
                f"{time.monotonic() - began:5.0f} s  {arm.name}, seed {seed}: honest {last['honest_all']:.2f}, "
                f"AUC {last['auc_all']:.2f}; expressible {last['honest_expressible']:.2f}; {last['cycles']} cycles",
                highlight=False,
            )
    finally:
        await redis.aclose()
        await runner.cleanup()


def _progress_printer(console: Console, steps: int, done: int, total: int, began: float) -> ProgressCallback:
    """A callback that prints a progress line every `_PROGRESS_S` seconds, with the remaining time of all runs."""
    printed_at = time.monotonic()

    def report_progress(step: int, run: Run, stage: str) -> None:
        nonlocal printed_at
        now = time.monotonic()
        if now - printed_at < _PROGRESS_S:
            return
        printed_at, share = now, (done + (step + 1) / steps) / total
        eta = (now - began) * (1.0 - share) / share
        version = run.versions[-1]
        where = f"step {step + 1}/{steps}, v{version}, ETA {eta:.0f} s"
        console.print(f"{now - began:5.0f} s  {run.arm}, seed {run.seed}: {where}  {stage}", highlight=False)

    return report_progress


if __name__ == "__main__":
    run_and_exit(main)
