"""What adapters tell of an outcome: numbers under names that never change, since trainers index by them."""

from collections.abc import Sequence
from typing import Protocol

from regrade.contracts import ErrorCode

METRIC_NAMES = ("regrade_scored", "regrade_rubric_version", "regrade_flags")
"""1 where there is a reward; the rubric's version (0: it has none); how many flags were raised."""


class _Rubric(Protocol):
    @property
    def version(self) -> int | None: ...


class _Error(Protocol):
    @property
    def code(self) -> ErrorCode: ...

    @property
    def message(self) -> str: ...

    @property
    def retryable(self) -> bool: ...


class Scored(Protocol):
    """An outcome, as the client reads it or as the service made it."""

    @property
    def reward(self) -> float | None: ...

    @property
    def rubric(self) -> _Rubric: ...

    @property
    def flags(self) -> Sequence[str]: ...

    @property
    def error(self) -> _Error | None: ...


def metrics_of(result: Scored) -> dict[str, float]:
    """Numbers alone, and the same names for every outcome: some trainers make tensors of them."""
    told = (float(result.reward is not None), float(result.rubric.version or 0), float(len(result.flags)))
    return dict(zip(METRIC_NAMES, told, strict=True))


def empty_metrics() -> dict[str, float]:
    """`figures` of what the service told nothing about."""
    return dict.fromkeys(METRIC_NAMES, 0.0)


def failure_reason(result: Scored) -> str:
    """One line on why there is no reward."""
    return "scored" if result.error is None else f"{result.error.code}: {result.error.message}"
