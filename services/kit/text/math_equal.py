"""Equivalence of answers by math-verify, in worker processes, since symbolic algebra on policy text may never end."""

import asyncio
import multiprocessing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pebble import ProcessPool

_MAX_ANSWER_CHARS = 2_000
_MATH_MARKS = ("$", r"\boxed", r"\(", r"\[")


def boxed(text: str) -> str:
    r"""The content of the last `\boxed{...}` with balanced braces, stripped; empty when there is none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return ""
    depth = 0
    begin = start + len(r"\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip()
    return ""


class MathEqualPool:
    """Worker processes, spawned at the first use; one that exceeds `timeout_s` is replaced."""

    def __init__(self, *, timeout_s: float = 3.0, workers: int = 4) -> None:
        self._timeout_s = timeout_s
        self._workers = workers
        self._pool: ProcessPool | None = None

    async def equal(self, completion: str, reference: str) -> bool:
        """Whether the completion's final answer equals the reference. Raises `OSError`: timeout, or a worker died."""
        from pebble import ProcessPool  # the meta-reward service imports the catalogue of checks, and has no workers

        if self._pool is None:
            self._pool = ProcessPool(self._workers, context=multiprocessing.get_context("spawn"), initializer=_warm_up)
        texts = (completion[-_MAX_ANSWER_CHARS:], reference[-_MAX_ANSWER_CHARS:])
        try:
            return bool(await asyncio.wrap_future(self._pool.schedule(_equal, args=texts, timeout=self._timeout_s)))
        except RuntimeError as error:  # a worker that dies while idle breaks its pool
            self.close()
            raise ChildProcessError("the math worker died") from error

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _warm_up() -> None:
    import math_verify  # noqa: F401 - heavy; imported in the worker alone


def _equal(completion: str, reference: str) -> bool:
    from math_verify import parse, verify

    bare = "\\" in reference and not any(mark in reference for mark in _MATH_MARKS)
    # Of LaTeX without its delimiters, a plain parse reads only the first number: 25 of 25\\pi.
    written = (f"${reference}$", reference) if bare else (reference, f"${reference}$")
    gold = parse(written[0], parsing_timeout=None) or parse(written[1], parsing_timeout=None)
    return bool(verify(gold, parse(completion, parsing_timeout=None), timeout_seconds=None))
