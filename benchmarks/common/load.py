"""Bare aiohttp clients, each run as a contender process: of `/score`, and of the engine itself.

`--what score` sends batches to the reward service and reads the CPU clocks of its processes and of Redis.
`--what calls` and `--what batches` send to the engine, byte for byte, the conversations that the service sends for such
batches: one call per item, or by the batch route. All bodies are prepared before the clock starts.
"""

import argparse
import asyncio
import json
import time
import urllib.request
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Self

import aiohttp
import psutil
from redis import Redis

from benchmarks.score.worker import Measure, Measurement, serve_measurements
from services.kit.store.keys import traces_key
from tests.support.texts import GROUP, Group, groups

BATCH = 16
"""Items per request: two groups."""
_TRACES_WAIT_S = 10.0
_HEADERS = {"Content-Type": "application/json"}
_STEPS = count(int(time.time()))


class Sender:
    """POSTs prepared bodies concurrently, over connections that are kept between measurements."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None

    def send(self, url: str, bodies: Sequence[bytes], in_flight: int) -> tuple[list[bytes], list[float]]:
        """The responses' bodies and latencies in seconds. Raises `RuntimeError` for a status other than 200."""
        return self._runner.run(self._send(url, bodies, in_flight))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    async def _send(self, url: str, bodies: Sequence[bytes], in_flight: int) -> tuple[list[bytes], list[float]]:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        pending = iter(bodies)
        contents: list[bytes] = []
        latencies: list[float] = []

        async def slot(session: aiohttp.ClientSession) -> None:
            for body in pending:
                began = time.perf_counter()
                async with session.post(url, data=body, headers=_HEADERS) as response:
                    content = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"HTTP {response.status}: {content[:300]!r}")
                latencies.append(time.perf_counter() - began)
                contents.append(content)

        await asyncio.gather(*(slot(self._session) for _ in range(in_flight)))
        return contents, latencies


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds used so far by these processes and their children, with the clock's nanosecond resolution (Linux)."""
    family = {pid: None for root in pids for pid in (root, *(p.pid for p in psutil.Process(root).children(True)))}
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in family)


def score_bodies(task: str, seed: str, batches: int) -> list[bytes]:
    """Requests of two groups each, each with a step of its own, so that no item is answered from the store."""
    supply = groups(seed)
    return [_score_body(task, list(islice(supply, BATCH // GROUP))) for _ in range(batches)]


def _score_body(task: str, batch: Sequence[Group]) -> bytes:
    items = [
        {"id": f"{g}-{n}", "group": str(g), "prompt": group.prompt, "completion": completion}
        for g, group in enumerate(batch)
        for n, completion in enumerate(group.completions)
    ]
    request = {"task": task, "run": "bench", "step": next(_STEPS), "items": items}
    return json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode()


def check_score(content: bytes, items: int = BATCH) -> None:
    """Raises `RuntimeError` unless every item of a `/score` response was newly judged and has a reward."""
    results = json.loads(content)["results"]
    bad = [r for r in results if r["reward"] is None or r["error"] is not None or r["cached"]]
    if len(results) != items or bad:
        raise RuntimeError(f"{len(results)} results, {len(bad)} of them not newly judged: {str(bad[:1])[:300]}")


def score(sender: Sender, url: str, redis_url: str, service_pid: int, engine_url: str) -> Measure:
    """Measures the reward service: the CPU of all its processes until the last trace is in Redis.

    Raises `RuntimeError` unless every item got a reward, left a trace, and reached the engine.
    """
    redis = Redis.from_url(redis_url)
    redis_pid = int(redis.info("server")["process_id"])

    def measure(request: dict[str, Any]) -> Measurement:
        stream = traces_key(request["task"])
        bodies = score_bodies(request["task"], request["seed"], request["items"] // BATCH)
        redis.xtrim(stream, maxlen=0, approximate=False)
        judged_before = _judged_conversations(engine_url)
        cpu, cpu_redis, began = cpu_s([service_pid]), cpu_s([redis_pid]), time.perf_counter()
        contents, latencies = sender.send(url + "/score", bodies, request["in_flight"] // BATCH)
        wall = time.perf_counter() - began
        _wait_for_traces(redis, stream, request["items"])
        used = {"cpu_s": cpu_s([service_pid]) - cpu, "redis_cpu_s": cpu_s([redis_pid]) - cpu_redis}
        for content in contents:
            check_score(content)
        judged = _judged_conversations(engine_url) - judged_before
        if judged != request["items"] * request["criteria"]:
            raise RuntimeError(f"{judged} conversations reached the engine for {request['items']} items")
        return {"items": request["items"], "wall_s": wall, "latencies_s": latencies} | used

    return measure


def _judged_conversations(engine_url: str) -> int:
    with urllib.request.urlopen(f"{engine_url}/judged", timeout=10.0) as response:
        return int(response.read())


def _wait_for_traces(redis: Redis, stream: str, items: int) -> None:
    deadline = time.monotonic() + _TRACES_WAIT_S
    while redis.xlen(stream) != items:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{redis.xlen(stream)} traces for {items} scored items")
        time.sleep(0.002)


def engine(sender: Sender, url: str, bodies_of: dict[str, list[str]], *, batched: bool) -> Measure:
    """Measures a bare client of the engine by its own CPU; `bodies_of` holds the request bodies by task."""
    path = "/v1/chat/completions/batch" if batched else "/v1/chat/completions"
    per_request = BATCH if batched else 1

    def measure(request: dict[str, Any]) -> Measurement:
        recorded = [body.encode() for body in bodies_of[request["task"]]]
        bodies = [recorded[n % len(recorded)] for n in range(request["items"] // per_request)]
        cpu, began = time.process_time(), time.perf_counter()
        _, latencies = sender.send(url + path, bodies, request["in_flight"] // per_request)
        used = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began}
        return {"items": request["items"], "latencies_s": latencies} | used

    return measure


def main() -> None:
    """Measure on request until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("score", "calls", "batches"), required=True, help="see above")
    parser.add_argument("--url", required=True, help="base URL of the service or the engine")
    parser.add_argument("--redis-url", default="", help="the service's Redis")
    parser.add_argument("--service-pid", type=int, default=0, help="the service's process id")
    parser.add_argument("--engine-url", default="", help="the service's engine")
    parser.add_argument("--bodies", type=Path, help="JSON object: bodies of engine calls by task")
    args = parser.parse_args()
    with Sender() as sender:
        if args.what == "score":
            serve_measurements(lambda: score(sender, args.url, args.redis_url, args.service_pid, args.engine_url))
        else:
            bodies = json.loads(args.bodies.read_text(encoding="utf-8"))
            serve_measurements(lambda: engine(sender, args.url, bodies, batched=args.what == "batches"))


if __name__ == "__main__":
    main()
