"""What the meta-reward service measures of itself; label values come from closed sets."""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.kit.store.keys import LineageKey

_CYCLE_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0)
_STAGE_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0)

RollbackReason = Literal["spread", "audit"]


class MetaRewardMetrics:
    """Counters and gauges of one app, by task; what scopes have of a line each is added up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._cycles = Histogram(
            "regrade_cycle_seconds", "Finished cycles.", ("task",), buckets=_CYCLE_SECONDS, registry=registry
        )
        self._stages = Histogram(
            "regrade_meta_stage_seconds",
            "Stages of cycles, as far as they came.",
            ("task", "stage"),
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._activations = Counter(
            "regrade_activations_total", "Rubrics activated by a cycle.", ("task",), registry=registry
        )
        self._rollbacks = Counter(
            "regrade_meta_rollbacks_total", "Automatic rollbacks.", ("task", "reason"), registry=registry
        )
        self._verdicts = Counter(
            "regrade_meta_verdicts_total",
            "Candidates by what became of them (gated, rejected, failed) and why.",
            ("task", "outcome", "reason"),
            registry=registry,
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
        self._lags: defaultdict[str, dict[LineageKey, int]] = defaultdict(dict)
        self._measure_audit(registry)

    def _measure_audit(self, registry: CollectorRegistry) -> None:
        self._audited = Counter(
            "regrade_meta_audited_traces_total",
            "Traces put to the audit judge: scored, or null where it gave nothing usable.",
            ("task", "outcome"),
            registry=registry,
        )
        self._audit_share = Gauge(
            "regrade_meta_audit_share_ratio",
            "Audited share of the training traces looked at since the start.",
            ("task",),
            registry=registry,
        )
        self._audit_counts: defaultdict[str, Counts[str]] = defaultdict(Counts)

    def archived(self, task: str, traces: int) -> None:
        """Count archived traces."""
        self._archived.labels(task).inc(traces)

    def cycle(self, task: str) -> AbstractContextManager[object]:
        """Time a cycle."""
        return self._cycles.labels(task).time()

    def stages(self, task: str, seconds: Mapping[str, float]) -> None:
        """Note how long the stages of a cycle took."""
        for stage, took in seconds.items():
            self._stages.labels(task, stage).observe(took)

    def verdicts(self, task: str, counts: Mapping[tuple[str, str], int]) -> None:
        """Count what became of a cycle's candidates, by outcome and kind of reason."""
        for (outcome, reason), count in counts.items():
            self._verdicts.labels(task, outcome, reason).inc(count)

    def activated(self, task: str) -> None:
        """Count an activation."""
        self._activations.labels(task).inc()

    def rolled_back(self, task: str, reason: RollbackReason) -> None:
        """Count a rollback by the watch."""
        self._rollbacks.labels(task, reason).inc()

    def failed(self, task: str, error: str) -> None:
        """Count a failed look, by the error's type."""
        self._failures.labels(task, error).inc()

    def lag(self, lineage: LineageKey, traces: int) -> None:
        """Note how many traces of a line wait."""
        self._lags[lineage.task][lineage] = traces
        self._lag.labels(lineage.task).set(sum(self._lags[lineage.task].values()))

    def audited(self, task: str, *, considered: int, scored: int, null: int) -> None:
        """Count a look of the audit: the traces it saw, and those of them that it put to the judge."""
        self._audited.labels(task, "scored").inc(scored)
        self._audited.labels(task, "null").inc(null)
        counts = self._audit_counts[task]
        counts.update(considered=considered, audited=scored + null)
        if counts["considered"]:
            self._audit_share.labels(task).set(counts["audited"] / counts["considered"])
