"""How long until every replica serves a newly activated rubric, announced on Redis's channel to three processes.

Each activation is of a new rubric, so that fetching it counts. A replica exports when it received the active rubric
(`regrade_active_rubric_since_seconds`); the difference to the time just before the activation is its latency, and the
slowest replica counts. Polling, which would repair a lost announcement, is off. Writes `activation.json`; exit status 1
when the 99th percentile is 50 ms or more.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from pydantic import SecretStr
from rich.console import Console

from benchmarks.common.output import OUT, write_json
from benchmarks.common.shutdown import run_and_exit
from benchmarks.common.stack import prefixed, running_valkey
from regrade.contracts import MAIN_LINEAGE, Override, Rubric
from services.kit.store.keys import LineageKey
from services.kit.store.redis import connect
from services.kit.store.rubric_store import RubricStore
from services.local.processes import Processes

LINEAGE = LineageKey("activation", MAIN_LINEAGE)
BOUND_MS = 50.0
REPLICAS = 3
_METRICS = re.compile(r'^regrade_active_rubric_(version|since_seconds)\{.*task="activation".*\} (\S+)$', re.MULTILINE)
_LOST_S = 5.0
"""An announcement counts as lost after this time."""
_POLL_S = 0.06
"""Above the bound: a replica that is exporting its metrics cannot receive the announcement at the same time."""


def _rubric(words: int) -> Rubric:
    check = {"check": "min_words", "words": words}
    return Rubric.model_validate({"criteria": [{"kind": "check", "id": "words", "name": "Words", "check": check}]})


async def _since(http: httpx.AsyncClient, url: str, version: int) -> float:
    """When a replica received that version, in Unix seconds. Raises `TimeoutError`."""
    async with asyncio.timeout(_LOST_S):
        while True:
            await asyncio.sleep(_POLL_S)
            exported = dict(_METRICS.findall((await http.get(f"{url}/metrics")).text))
            if exported and float(exported["version"]) == version:
                return float(exported["since_seconds"])


async def _activate(redis_url: str, replicas: Sequence[str], count: int) -> list[list[float]]:
    """Latencies in ms, by activation and replica."""
    redis = connect(SecretStr(redis_url))
    store = RubricStore(redis)
    latencies: list[list[float]] = []
    active: str | None = None
    async with httpx.AsyncClient(timeout=10.0) as http:
        for n in range(count + 1):
            rubric = _rubric(n + 1)
            await store.put(LINEAGE.task, rubric)
            authority = Override(by="benchmark", reason="benchmark", bootstrap=active is None)
            began = time.time()
            version = await store.activate(LINEAGE, rubric.digest, expected=active, authority=authority)
            active = rubric.digest
            received = await asyncio.gather(*(_since(http, url, version) for url in replicas))
            if n > 0:  # the first activation opens connections
                latencies.append([1_000.0 * (since - began) for since in received])
    await redis.aclose()
    return latencies


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    folder = args.out / "activation"
    folder.mkdir(parents=True, exist_ok=True)
    with running_valkey() as valkey, Processes(folder) as processes:
        redis_url = f"redis://127.0.0.1:{valkey.port}/0"
        _, engine_url = processes.start_server("engine", ["benchmarks.score.engine_stub"], ready="/health")
        env = {"REDIS_URL": redis_url, "JUDGE_URL": engine_url, "ACTIVE_POLL_S": "3600", "LOG_LEVEL": "WARNING"}
        env = prefixed("REGRADE_REWARD_", env)
        replicas = [
            processes.start_server(f"reward-{n}", ["services.reward", "--port", "0"], ready="/healthz", env=env)[1]
            for n in range(REPLICAS)
        ]
        by_activation = asyncio.run(_activate(redis_url, replicas, args.activations))
    by_all = [max(latencies) for latencies in by_activation]
    cuts = quantiles(by_all, n=100)
    return {
        "replicas": REPLICAS,
        "activations": len(by_all),
        "seen_by_all_ms": {"median": median(by_all), "p95": cuts[94], "p99": cuts[98], "max": max(by_all)},
    }


def main() -> int:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=int, default=300, help="number of activations")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of activation.json and logs")
    args = parser.parse_args()
    Console().print(f"{args.activations} activations, {REPLICAS} replicas")
    figures = _measure(args)
    write_json(args.out / "activation.json", figures)
    json.dump(figures, sys.stdout, indent=1)
    return int(figures["seen_by_all_ms"]["p99"] >= BOUND_MS)


if __name__ == "__main__":
    run_and_exit(main)
