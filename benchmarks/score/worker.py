"""A contender's process: told on standard input what to measure, it answers on standard output, a JSON line each.

Standard library only, since each peer runs it in its own environment. Started once, measured in turn with
the others, so that a machine that gets slower meanwhile gets slower for all.

    > {"items": 512, "in_flight": 64, "delay_ms": 0, "seed": "r3"}
    < {"items": 512, "cpu_s": 0.061, "wall_s": 0.094, "latencies_s": [...]}
    < {"error": "ModuleNotFoundError: ..."}        instead, when it could not be done
"""

import argparse
import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from typing import Any, TextIO

from benchmarks.common.texts import GROUP, groups

Measurement = dict[str, Any]
Measure = Callable[[dict[str, Any]], Measurement]
JudgeOne = Callable[[str, str], Awaitable[float]]
JudgeGroup = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]


def answer_orders(prepare: Callable[[], Measure]) -> None:
    """Prepare, then measure whatever is asked until standard input ends; a failure is told, not raised."""
    with ExitStack() as stack:
        out = _own_stdout(stack)
        measure = _or_complaint(prepare)
        for line in sys.stdin:
            answer = measure if isinstance(measure, dict) else _or_complaint(lambda: measure(json.loads(line)))  # noqa: B023
            out.write(json.dumps(answer) + "\n")
            out.flush()


def _own_stdout(stack: ExitStack) -> TextIO:
    """The real standard output for us alone: libraries that print do so into the log."""
    out = stack.enter_context(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    return out


def _or_complaint(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        text = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {text[0][:300] if text else ''}"}


def engine_url(name: str, choice: dict[str, Any]) -> str:
    """Have the stub give `choice` to every chat completion asked under the URL returned (to be used with /v1)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True, help="the stub engine, without /v1")
    url = f"{parser.parse_args().url}/say/{name}"
    request = urllib.request.Request(url, data=json.dumps(choice).encode(), method="PUT")
    with urllib.request.urlopen(request, timeout=10.0):
        return url


def verdict(content: Any, **more: Any) -> dict[str, Any]:
    """A choice whose message is `content` (as JSON where it is no text)."""
    text = content if isinstance(content, str) else json.dumps(content)
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"message": message, "finish_reason": "stop", "logprobs": None} | more


def pointwise(judge: JudgeOne) -> Callable[[], Measure]:
    """Measure a judge of single completions, `in_flight` of them at once."""

    async def one(item: tuple[str, str]) -> list[float]:
        return [await judge(*item)]

    def work(seed: str) -> Iterator[tuple[str, str]]:
        return ((group.prompt, completion) for group in groups(seed) for completion in group.completions)

    return _measuring(one, work, per_call=1)


def groupwise(judge: JudgeGroup) -> Callable[[], Measure]:
    """Measure a judge of whole groups, as many at once as `in_flight` items make."""

    async def one(group: tuple[str, Sequence[str]]) -> list[float]:
        return list(await judge(*group))

    return _measuring(one, lambda seed: groups(seed), per_call=GROUP)


def _measuring(
    judge: Callable[[Any], Awaitable[list[float]]], work: Callable[[str], Iterator[Any]], *, per_call: int
) -> Callable[[], Measure]:
    def measure(order: dict[str, Any]) -> Measurement:
        calls = list(islice(work(order["seed"]), order["items"] // per_call))
        cpu, began = time.process_time(), time.perf_counter()
        scores, latencies = runner.run(_spread(judge, calls, order["in_flight"] // per_call))
        spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began}
        if len(scores) != order["items"] or not all(0.0 <= score <= 1.0 for score in scores):
            raise ValueError(f"not a score in [0, 1] for each of {order['items']} items: {scores[:4]}")
        return {"items": len(scores), "latencies_s": latencies} | spent

    runner = asyncio.Runner()  # one event loop for all measurements, so that connections are kept
    return lambda: measure


async def _spread(
    judge: Callable[[Any], Awaitable[list[float]]], calls: Sequence[Any], in_flight: int
) -> tuple[list[float], list[float]]:
    waiting = iter(calls)
    latencies: list[float] = []

    async def slot() -> list[float]:
        scores: list[float] = []
        for call in waiting:
            began = time.perf_counter()
            scores += await judge(call)
            latencies.append(time.perf_counter() - began)
        return scores

    found = await asyncio.gather(*(slot() for _ in range(max(1, in_flight))))
    return list(chain.from_iterable(found)), latencies
