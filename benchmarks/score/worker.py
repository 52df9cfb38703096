"""A contender process: reads measurement requests from standard input and writes results, one JSON line each.

Standard library only, because each peer runs it in its own environment. A contender is started once and measured in
turn with the others, so that a machine that slows down slows all of them.

    > {"items": 512, "in_flight": 64, "delay_ms": 0, "seed": "r3"}
    < {"items": 512, "cpu_s": 0.061, "wall_s": 0.094, "latencies_s": [...]}
    < {"error": "ModuleNotFoundError: ..."}        instead, if the measurement failed
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

from tests.support.texts import GROUP, groups

Measurement = dict[str, Any]
Measure = Callable[[dict[str, Any]], Measurement]
JudgeOne = Callable[[str, str], Awaitable[float]]
JudgeGroup = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]


def serve_measurements(prepare: Callable[[], Measure]) -> None:
    """Prepare, then measure on each request until standard input ends; a failure is reported as a result."""
    with ExitStack() as stack:
        out = _private_stdout(stack)
        measure = _or_error(prepare)
        for line in sys.stdin:
            result = measure if isinstance(measure, dict) else _or_error(lambda: measure(json.loads(line)))  # noqa: B023
            out.write(json.dumps(result) + "\n")
            out.flush()


def _private_stdout(stack: ExitStack) -> TextIO:
    """The original standard output; whatever libraries print goes to the log instead."""
    out = stack.enter_context(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    return out


def _or_error(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        text = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {text[0][:300] if text else ''}"}


def engine_url(name: str, choice: dict[str, Any]) -> str:
    """Register `choice` with the stub engine; returns the URL (without /v1) whose chat completions answer with it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True, help="the stub engine, without /v1")
    url = f"{parser.parse_args().url}/say/{name}"
    request = urllib.request.Request(url, data=json.dumps(choice).encode(), method="PUT")
    with urllib.request.urlopen(request, timeout=10.0):
        return url


def chat_choice(content: Any, **more: Any) -> dict[str, Any]:
    """A chat completion's choice with the message `content` (as JSON if it is no text)."""
    text = content if isinstance(content, str) else json.dumps(content)
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"message": message, "finish_reason": "stop", "logprobs": None} | more


def pointwise(judge: JudgeOne) -> Callable[[], Measure]:
    """Measures a judge of single completions, `in_flight` of them concurrently."""

    async def judge_item(item: tuple[str, str]) -> list[float]:
        return [await judge(*item)]

    def items(seed: str) -> Iterator[tuple[str, str]]:
        return ((group.prompt, completion) for group in groups(seed) for completion in group.completions)

    return _measuring(judge_item, items, per_call=1)


def groupwise(judge: JudgeGroup) -> Callable[[], Measure]:
    """Measures a judge of whole groups, with `in_flight` items concurrently."""

    async def judge_group(group: tuple[str, Sequence[str]]) -> list[float]:
        return list(await judge(*group))

    return _measuring(judge_group, groups, per_call=GROUP)


def _measuring(
    judge: Callable[[Any], Awaitable[list[float]]], supply: Callable[[str], Iterator[Any]], *, per_call: int
) -> Callable[[], Measure]:
    def measure(request: dict[str, Any]) -> Measurement:
        calls = list(islice(supply(request["seed"]), request["items"] // per_call))
        cpu, began = time.process_time(), time.perf_counter()
        scores, latencies = runner.run(_judge_all(judge, calls, request["in_flight"] // per_call))
        used = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began}
        if len(scores) != request["items"] or not all(0.0 <= score <= 1.0 for score in scores):
            raise ValueError(f"not a score in [0, 1] for each of {request['items']} items: {scores[:4]}")
        return {"items": len(scores), "latencies_s": latencies} | used

    runner = asyncio.Runner()  # one event loop for all measurements, so that connections are kept
    return lambda: measure


async def _judge_all(
    judge: Callable[[Any], Awaitable[list[float]]], calls: Sequence[Any], in_flight: int
) -> tuple[list[float], list[float]]:
    pending = iter(calls)
    latencies: list[float] = []

    async def slot() -> list[float]:
        scores: list[float] = []
        for call in pending:
            began = time.perf_counter()
            scores += await judge(call)
            latencies.append(time.perf_counter() - began)
        return scores

    by_slot = await asyncio.gather(*(slot() for _ in range(max(1, in_flight))))
    return list(chain.from_iterable(by_slot)), latencies
