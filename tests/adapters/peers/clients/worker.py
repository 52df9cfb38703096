"""Runs a peer's client in the peer's environment: orders and answers are JSON lines.

An order has `samples` (each with `prompt` and `completion`), `step`, and `what`: rewards or advantages of the samples,
which are one group. An answer has `values`: a number, "nan" or null each, where null means that the peer leaves the
sample out of training; or `error`: what the peer's own code raised.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from typing import Any
from unittest.mock import MagicMock

Sample = dict[str, str]
Values = Sequence[float | None]
OPTIONS = os.environ["PEER_OPTIONS"]
"""How a test sets the peer up; each client says which there are. "" is the recommended way."""


def answer_orders(
    distribution: str,
    rewards: Callable[[Sequence[Sample], int], Values],
    advantages: Callable[[Sequence[Sample], int], Values],
) -> None:
    """Answer until the orders end. Whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"version": f"{distribution} {version(distribution)}"}), file=answers, flush=True)
    functions = {"rewards": rewards, "advantages": advantages}
    for text in sys.stdin:
        order = json.loads(text)
        try:
            values = functions[order["what"]](order["samples"], order["step"])
            answer: dict[str, Any] = {"values": [_as_json(value) for value in values]}
        except Exception as error:  # what the peer makes of a failure is what is tested
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def stand_in_for(*modules: str) -> None:
    """Let modules that need a GPU be imported; what is tested does not use them."""
    sys.modules.update({name: MagicMock(__spec__=ModuleSpec(name, None), __path__=[]) for name in modules})


def _as_json(value: float | None) -> float | str | None:
    if value is None:
        return None
    return "nan" if math.isnan(value) else float(value)
