"""The bare aiohttp clients, each a contender process: of `/score`, and of the engine itself.

`--what score` sends batches to the reward service and reads the CPU clocks of its processes and of Redis.
`--what calls` and `--what batches` send to the engine, byte for byte, the conversations that the service
sent for such batches: one call an item, and by the batch route. Every body is made before the clock starts.
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

from benchmarks.common.texts import GROUP, Group, groups
from benchmarks.score.worker import Measure, Measurement, answer_orders
from services.kit.store.keys import traces_key

BATCH = 16
_TRACES_WAIT_S = 10.0
_HEADERS = {"Content-Type": "application/json"}
_STEPS = count(int(time.time()))


class Sender:
    """POSTs prepared bodies, some at once, over connections that are kept from one measurement to the next."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None

    def send(self, url: str, bodies: Sequence[bytes], at_once: int) -> tuple[list[bytes], list[float]]:
        """The answers' bodies and latencies in seconds. Raises `RuntimeError` for an answer other than 200."""
        return self._runner.run(self._send(url, bodies, at_once))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    async def _send(self, url: str, bodies: Sequence[bytes], at_once: int) -> tuple[list[bytes], list[float]]:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        waiting = iter(bodies)
        answers: list[bytes] = []
        latencies: list[float] = []

        async def slot(session: aiohttp.ClientSession) -> None:
            for body in waiting:
                began = time.perf_counter()
                async with session.post(url, data=body, headers=_HEADERS) as response:
                    answer = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"HTTP {response.status}: {answer[:300]!r}")
                latencies.append(time.perf_counter() - began)
                answers.append(answer)

        await asyncio.gather(*(slot(self._session) for _ in range(at_once)))
        return answers, latencies


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds, to the nanosecond, that these processes and their children have used up to now (Linux)."""
    family = {pid: None for root in pids for pid in (root, *(p.pid for p in psutil.Process(root).children(True)))}
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in family)


def score_bodies(task: str, seed: str, batches: int) -> list[bytes]:
    """Requests of two groups each, every one a step of its own, so that nothing is answered from what is stored."""
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


def check_score(answer: bytes) -> None:
    """Every item newly judged, with a reward. Raises `RuntimeError`: then there is nothing worth measuring."""
    results = json.loads(answer)["results"]
    bad = [r for r in results if r["reward"] is None or r["error"] is not None or r["cached"]]
    if len(results) != BATCH or bad:
        raise RuntimeError(f"{len(results)} results, {len(bad)} of them not newly judged: {str(bad[:1])[:300]}")


def score(sender: Sender, url: str, redis_url: str, service_pid: int, engine_url: str) -> Measure:
    """Measure the reward service: the CPU of all its processes until the last trace is in Redis.

    Raises `RuntimeError` unless every item got a reward, left a trace, and was really put to the engine.
    """
    redis = Redis.from_url(redis_url)
    redis_pid = int(redis.info("server")["process_id"])

    def measure(order: dict[str, Any]) -> Measurement:
        stream = traces_key(order["task"])
        bodies = score_bodies(order["task"], order["seed"], order["items"] // BATCH)
        redis.xtrim(stream, maxlen=0, approximate=False)
        judged = _judged(engine_url)
        cpu, cpu_redis, began = cpu_s([service_pid]), cpu_s([redis_pid]), time.perf_counter()
        answers, latencies = sender.send(url + "/score", bodies, order["in_flight"] // BATCH)
        wall = time.perf_counter() - began
        _wait_for_traces(redis, stream, order["items"])
        spent = {"cpu_s": cpu_s([service_pid]) - cpu, "redis_cpu_s": cpu_s([redis_pid]) - cpu_redis}
        for answer in answers:
            check_score(answer)
        judged = _judged(engine_url) - judged
        if judged != order["items"] * order["criteria"]:
            raise RuntimeError(f"{judged} conversations reached the engine for {order['items']} items")
        return {"items": order["items"], "wall_s": wall, "latencies_s": latencies} | spent

    return measure


def _judged(engine_url: str) -> int:
    with urllib.request.urlopen(f"{engine_url}/judged", timeout=10.0) as answer:
        return int(answer.read())


def _wait_for_traces(redis: Redis, stream: str, items: int) -> None:
    deadline = time.monotonic() + _TRACES_WAIT_S
    while redis.xlen(stream) != items:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{redis.xlen(stream)} traces for {items} scored items")
        time.sleep(0.002)


def engine(sender: Sender, url: str, bodies_of: dict[str, list[str]], *, batched: bool) -> Measure:
    """Measure a bare client of the engine; its own CPU is what counts. `bodies_of` holds the bodies by task."""
    path = "/v1/chat/completions/batch" if batched else "/v1/chat/completions"

    def measure(order: dict[str, Any]) -> Measurement:
        known = [body.encode() for body in bodies_of[order["task"]]]
        at_once = order["in_flight"] // BATCH if batched else order["in_flight"]
        wanted = order["items"] // BATCH if batched else order["items"]
        bodies = [known[n % len(known)] for n in range(wanted)]
        cpu, began = time.process_time(), time.perf_counter()
        _, latencies = sender.send(url + path, bodies, at_once)
        spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began}
        return {"items": order["items"], "latencies_s": latencies} | spent

    return measure


def main() -> None:
    """Answer orders until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("score", "calls", "batches"), required=True)
    parser.add_argument("--url", required=True, help="the service's or the engine's base URL")
    parser.add_argument("--redis-url", default="")
    parser.add_argument("--service-pid", type=int, default=0)
    parser.add_argument("--engine-url", default="", help="the engine behind the service")
    parser.add_argument("--bodies", type=Path, help="JSON object: task to bodies of engine calls")
    args = parser.parse_args()
    with Sender() as sender:
        if args.what == "score":
            answer_orders(lambda: score(sender, args.url, args.redis_url, args.service_pid, args.engine_url))
        else:
            bodies = json.loads(args.bodies.read_text(encoding="utf-8"))
            answer_orders(lambda: engine(sender, args.url, bodies, batched=args.what == "batches"))


if __name__ == "__main__":
    main()
