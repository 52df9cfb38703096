"""Runs a peer's client in the peer's environment: orders and answers are JSON lines.

An order has `samples` (each with `prompt` and `completion`), and `step`. An answer has `rewards`: a number, "nan" or
null each, or `error`: what the peer's own code raised.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

Sample = dict[str, str]


def answer_orders(distribution: str, score: Callable[[Sequence[Sample], int], Sequence[Any]]) -> None:
    """Answer until the orders end. Whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"version": f"{distribution} {version(distribution)}"}), file=answers, flush=True)
    for text in sys.stdin:
        order = json.loads(text)
        try:
            answer: dict[str, Any] = {"rewards": [_as_json(r) for r in score(order["samples"], order["step"])]}
        except Exception as error:  # what the peer makes of a failure is what is tested
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _as_json(reward: Any) -> float | str | None:
    if reward is None or isinstance(reward, str):
        return reward
    return "nan" if math.isnan(reward) else float(reward)
