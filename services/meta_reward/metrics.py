"""Prometheus metrics of the meta-reward service; every label value comes from a closed set."""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.kit.store.keys import LineageKey

# A cycle without candidates takes seconds; a gate on a slow judge takes up to half an hour.
_CYCLE_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0)
_STAGE_SECONDS = (0.1, 0.5, *_CYCLE_SECONDS)


class MetaRewardMetrics:
    """Metrics of one app, by task; the values of a task's scopes are summed. Plain counters are used as they are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("task", *labels), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ("task",), registry=registry)

        self.cycles = Histogram(
            "regrade_cycle_seconds", "Finished cycles.", ("task",), buckets=_CYCLE_SECONDS, registry=registry
        )
        self._stages = Histogram(
            "regrade_meta_stage_seconds",
            "Stages that cycles have completed.",
            ("task", "stage"),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self.activations = counter("regrade_activations_total", "Rubrics activated by a cycle.")
        self.rollbacks = counter("regrade_meta_rollbacks_total", "Automatic rollbacks.", "reason")
        self._outcomes = counter(
            "regrade_meta_verdicts_total",
            "Candidates by outcome (gated, rejected, failed) and reason code.",
            "outcome",
            "reason",
        )
        self.failures = counter("regrade_cycle_failures_total", "Polls of a lineage that failed.", "error")
        self.archived = counter("regrade_archived_traces_total", "Traces written to the archive.")
        self._lag = gauge("regrade_meta_reward_lag_traces", "Traces that no cycle has consumed.")
        self._audited = counter(
            "regrade_meta_audited_traces_total",
            "Traces sent to the audit judge: scored, or null where it gave no usable score.",
            "outcome",
        )
        self._audit_share = gauge(
            "regrade_meta_audit_share_ratio", "Share of the training traces audited since the process started."
        )
        self._lags: defaultdict[str, dict[LineageKey, int]] = defaultdict(dict)
        self._audit_counts: defaultdict[str, Counts[str]] = defaultdict(Counts)

    def stages(self, task: str, seconds: Mapping[str, float]) -> None:
        """Observe the duration of each completed stage of a cycle."""
        for stage, duration_s in seconds.items():
            self._stages.labels(task, stage).observe(duration_s)

    def outcomes(self, task: str, counts: Mapping[tuple[str, str], int]) -> None:
        """Count the outcomes of a cycle's candidates, by (outcome, reason code)."""
        for (outcome, reason), count in counts.items():
            self._outcomes.labels(task, outcome, reason).inc(count)

    def lag(self, lineage: LineageKey, traces: int) -> None:
        """Set the number of pending traces of a lineage."""
        self._lags[lineage.task][lineage] = traces
        self._lag.labels(lineage.task).set(sum(self._lags[lineage.task].values()))

    def audited(self, task: str, *, considered: int, scored: int, null: int) -> None:
        """Count an audit batch: the traces it was drawn from, and how many got a score or none."""
        self._audited.labels(task, "scored").inc(scored)
        self._audited.labels(task, "null").inc(null)
        counts = self._audit_counts[task]
        counts.update(considered=considered, audited=scored + null)
        if counts["considered"]:
            self._audit_share.labels(task).set(counts["audited"] / counts["considered"])
