"""What the meta-reward service measures of itself."""

from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_CYCLE_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0)


class MetaRewardMetrics:
    """Counters and gauges of one app, by task."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cycles = Histogram(
            "regrade_cycle_seconds", "Finished cycles.", ("task",), buckets=_CYCLE_SECONDS, registry=registry
        )
        self._activations = Counter(
            "regrade_activations_total", "Rubrics activated by a cycle.", ("task",), registry=registry
        )
        self._failures = Counter(
            "regrade_cycle_failures_total", "Looks at a line that failed.", ("task", "error"), registry=registry
        )
        self._archived = Counter(
            "regrade_archived_traces_total", "Traces written to the archive.", ("task",), registry=registry
        )
        self._lag = Gauge(
            "regrade_meta_reward_lag_traces", "Traces no cycle has seen yet.", ("task",), registry=registry
        )

    def archived(self, task: str, traces: int) -> None:
        """Count archived traces."""
        self._archived.labels(task).inc(traces)

    def cycle(self, task: str) -> AbstractContextManager[object]:
        """Time a cycle."""
        return self._cycles.labels(task).time()

    def activated(self, task: str) -> None:
        """Count an activation."""
        self._activations.labels(task).inc()

    def failed(self, task: str, error: str) -> None:
        """Count a failed look, by the error's type."""
        self._failures.labels(task, error).inc()

    def lag(self, task: str, traces: int) -> None:
        """Note how many traces wait."""
        self._lag.labels(task).set(traces)
