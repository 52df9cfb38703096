"""Metrics of an outcome for a trainer's log, under fixed names: some trainers index by the first sample's names."""

from collections.abc import Sequence
from statistics import fmean
from typing import Protocol

METRIC_NAMES = ("regrade_scored", "regrade_rubric_version", "regrade_flags")
"""1 if there is a reward, else 0; the rubric's version (0 if it has none); the number of flags."""
NO_METRICS = dict.fromkeys(METRIC_NAMES, 0.0)
"""The metrics of a sample without an outcome."""


class _Rubric(Protocol):
    @property
    def version(self) -> int | None: ...


class Scored(Protocol):
    """An outcome: the client's `ItemResult` or the service's own."""

    @property
    def reward(self) -> float | None: ...

    @property
    def rubric(self) -> _Rubric: ...

    @property
    def flags(self) -> Sequence[str]: ...


def metrics_of(result: Scored) -> dict[str, float]:
    """The metrics of one outcome: numbers only, since some trainers make tensors of them."""
    values = (float(result.reward is not None), float(result.rubric.version or 0), float(len(result.flags)))
    return dict(zip(METRIC_NAMES, values, strict=True))


def mean_metrics(results: Sequence[Scored]) -> dict[str, float]:
    """The mean of each metric; empty without outcomes."""
    metrics = [metrics_of(result) for result in results]
    return {name: fmean(each[name] for each in metrics) for name in METRIC_NAMES} if metrics else {}
