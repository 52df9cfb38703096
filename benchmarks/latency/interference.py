"""The effect of rubric cycles on a scoring client: its latency with and without cycles, in alternating blocks.

A client scores training batches one after the other, against an engine of limited capacity. The meta-reward service,
with a meta-judge engine of its own, runs one cycle after the other in half of the blocks, and is stopped (SIGSTOP) in
the others. Every candidate has new criteria, so that none of its scores is cached. `--engine llamacpp` uses the small
model instead of the stub. Writes `interference.json`; exit status 1 when the stub's median rises by 5 % or more.
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

from benchmarks.common.load import Sender, check_score, score_bodies
from benchmarks.common.output import OUT, write_json
from benchmarks.common.shutdown import run_and_exit
from benchmarks.common.stack import prefixed, running_valkey
from services.local.processes import Processes

TASK = "essay_writing"
BOUND = 1.05
_DRAIN_S = 3.0
_READY_S = 60.0
_MAX_BATCHES = 2_000


@contextmanager
def _running(folder: Path, engine: str) -> Iterator[tuple[str, str, int]]:
    """Start everything; yields the URLs of both services and the meta-reward service's process id."""
    slots = 8 if engine == "stub" else 4
    with running_valkey() as valkey, Processes(folder) as processes:
        common = {"REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0", "LOG_LEVEL": "WARNING"}
        module = ["benchmarks.latency.limited_engine"] if engine == "stub" else ["services.local.engine"]
        _, engine_url = processes.start_server("engine", [*module, "--slots", str(slots)], ready="/health")
        meta_judge = ["benchmarks.latency.limited_engine", "--slots", "1"]
        _, meta_judge_url = processes.start_server("meta-judge", meta_judge, ready="/health")
        reward = {"JUDGE_URL": engine_url, "JUDGE_IN_FLIGHT": str(slots), "BOOTSTRAP_TASKS": json.dumps([TASK])}
        env = prefixed("REGRADE_REWARD_", common | reward)
        _, reward_url = processes.start_server("reward", ["services.reward", "--port", "0"], ready="/readyz", env=env)
        meta_reward = {
            "REWARD_URL": reward_url,
            "META_JUDGE_URL": meta_judge_url,
            "EVERY_TRACES": "8",
            "LONGEST_WAIT": "1",
            "POLL_S": "0.05",
            "LEASE_TTL_S": "300",
            "META_JUDGE_IN_FLIGHT": "1",
        }
        env = prefixed("REGRADE_META_", common | meta_reward)
        pid, meta_url = processes.start_server(
            "meta", ["services.meta_reward", "--port", "0"], ready="/readyz", env=env
        )
        yield reward_url, meta_url, pid


def _status(meta_url: str) -> dict[str, Any]:
    status: dict[str, Any] = httpx.get(f"{meta_url}/status/{TASK}", timeout=10.0).raise_for_status().json()
    return status


def _wait_for_gate(meta_url: str) -> None:
    """Wait until candidates are being scored."""
    deadline = time.monotonic() + _READY_S
    while (status := _status(meta_url))["stage"] != "gate":
        if time.monotonic() > deadline:
            raise RuntimeError(f"no candidate was scored within {_READY_S:.0f} s: {status}")
        time.sleep(0.05)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """The meta-reward service is stopped within a cycle, after its requests have been answered."""
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(_DRAIN_S)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _block(sender: Sender, url: str, bodies: Iterator[bytes], items: int, seconds: float) -> list[float]:
    """Latencies of one client's batches, one after the other, for `seconds`."""
    block: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        contents, latencies = sender.send(f"{url}/score", [next(bodies)], 1)
        check_score(contents[0], items)
        block += latencies
    return block


def _measure(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    folder = args.out / f"interference-{args.engine}"
    folder.mkdir(parents=True, exist_ok=True)
    items, warm_up_s = (16, 2.0) if args.engine == "stub" else (4, 30.0)
    bodies = _bodies(items)
    latencies: dict[str, list[float]] = {"without": [], "with": []}
    ratios = []
    with _running(folder, args.engine) as (reward_url, meta_url, pid), Sender() as sender:
        _block(sender, reward_url, bodies, items, warm_up_s)
        _wait_for_gate(meta_url)
        shadow = _shadow_items(reward_url)
        for n in range(args.blocks):
            pair = {}
            for kind in ("without", "with") if n % 2 == 0 else ("with", "without"):
                with _stopped(pid) if kind == "without" else nullcontext():
                    pair[kind] = _block(sender, reward_url, bodies, items, args.seconds)
                latencies[kind] += pair[kind]
            ratios.append(median(pair["with"]) / median(pair["without"]))
            console.print(f"block {n + 1} of {args.blocks}: {ratios[-1]:.3f}")
        cycles, shadow = _status(meta_url)["completed"], _shadow_items(reward_url) - shadow
    figures = {kind: _figures(values) for kind, values in latencies.items()}
    ratio = figures["with"]["median_ms"] / figures["without"]["median_ms"]
    summary = {"engine": args.engine, "items_a_batch": items, "ratio_of_medians": ratio, "block_ratios": ratios}
    return summary | {"cycles": cycles, "shadow_items": shadow, **figures}


def _shadow_items(reward_url: str) -> float:
    lines = httpx.get(f"{reward_url}/metrics", timeout=10.0).text.splitlines()
    counters = [line for line in lines if line.startswith("regrade_items_total") and 'purpose="shadow"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counters)


def _bodies(items: int) -> Iterator[bytes]:
    for body in score_bodies(TASK, f"interference {time.time()}", _MAX_BATCHES):
        request = json.loads(body)
        yield json.dumps(request | {"items": request["items"][:items]}).encode()


def _figures(latencies: list[float]) -> dict[str, float]:
    return {
        "batches": len(latencies),
        "mean_ms": 1_000.0 * fmean(latencies),
        "median_ms": 1_000.0 * median(latencies),
        "p95_ms": 1_000.0 * quantiles(latencies, n=20)[-1],
    }


def main() -> int:
    """Measure, print and write the figures; exit status 1 when the median rises too much with the stub."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("stub", "llamacpp"), default="stub", help="the judge's engine")
    parser.add_argument("--blocks", type=int, default=6, help="pairs of blocks")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a block")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of interference.json and logs")
    args = parser.parse_args()
    figures = _measure(args, Console())
    path = args.out / "interference.json"
    existing = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, existing | {args.engine: figures})
    json.dump(figures, sys.stdout, indent=1)
    if figures["shadow_items"] == 0:
        raise RuntimeError("no candidate was scored during the blocks: nothing was measured")
    return int(args.engine == "stub" and figures["ratio_of_medians"] >= BOUND)


if __name__ == "__main__":
    run_and_exit(main)
