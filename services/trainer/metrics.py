"""The trainer's Prometheus metrics."""

from typing import Any

from prometheus_client import CollectorRegistry, Gauge

TRL_METRICS = ("loss", "reward", "reward_std", "grad_norm", "kl", "entropy", "frac_reward_zero_std", "learning_rate")
"""TRL's metrics that the training log and Prometheus export."""


class TrainerMetrics:
    """Gauges of the last optimizer step."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._step = Gauge("regrade_trainer_step", "Optimizer steps done.", registry=registry)
        self._version = Gauge("regrade_trainer_rubric_version", "Version that scored the step.", registry=registry)
        self._unscored = Gauge("regrade_trainer_unscored_share", "Completions without a reward.", registry=registry)
        self._figure = Gauge("regrade_trainer_figure", "TRL's metrics of the step.", ("name",), registry=registry)

    def set(self, step: int, metrics: dict[str, Any]) -> None:
        """Take a step's metrics, TRL's and those of the reward function."""
        self._step.set(step)
        self._version.set(metrics.get("regrade/rubric_version", 0))
        self._unscored.set(metrics.get("regrade/unscored_share", 0))
        for name in TRL_METRICS:
            if name in metrics:
                self._figure.labels(name).set(float(metrics[name]))
