"""Metrics of the reward service; label values come from closed sets."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as CounterMetric

from regrade.contracts import Flag, Purpose, ScoreRequest
from services.kit.http.errors import UpstreamError
from services.kit.results import ItemResult, Usage

_CALL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_REWARDS = tuple(n / 10 for n in range(11))
_FLAGS = frozenset(flag.value for flag in Flag)
_NO_SPREAD = 0.01


class RewardMetrics:
    """The metrics of one app. `task` labels are names of tasks with an active rubric."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._items = CounterMetric(
            "regrade_items_total", "Items by outcome.", ("task", "purpose", "outcome"), registry=registry
        )
        self._rewards = Histogram(
            "regrade_reward_ratio", "Rewards of training items.", ("task",), buckets=_REWARDS, registry=registry
        )
        self._flags = CounterMetric(
            "regrade_flags_total", "Flags of training items.", ("task", "flag"), registry=registry
        )
        self._groups = CounterMetric(
            "regrade_groups_total",
            "Groups with two or more rewards in one request, by their spread; 'none' gives the policy no gradient.",
            ("task", "spread"),
            registry=registry,
        )
        self._active = Gauge(
            "regrade_active_rubric_version", "Version of the active rubric.", ("task", "lineage"), registry=registry
        )
        self._active_since = Gauge(
            "regrade_active_rubric_since_seconds",
            "Unix time at which this replica first saw the version.",
            ("task", "lineage"),
            registry=registry,
        )
        self._restored = CounterMetric(
            "regrade_restored_lineages_total",
            "Lineages restored after Redis had lost their active rubric, by the origin of the rubric.",
            ("task", "origin"),
            registry=registry,
        )
        self._trace_entries = Gauge(
            "regrade_trace_log_records", "Traces in Redis, as last measured.", ("task",), registry=registry
        )
        self._trace_bytes = Gauge(
            "regrade_trace_log_bytes", "Bytes of the traces in Redis, as last measured.", ("task",), registry=registry
        )
        self._trace_limit = Gauge(
            "regrade_trace_log_limit_bytes", "Most bytes of a task's traces in Redis.", registry=registry
        )
        self._versions: dict[tuple[str, str], int] = {}
        self._measure_tenants(registry)
        self._measure_judge(registry)
        self._measure_outages(registry)

    def _measure_tenants(self, registry: CollectorRegistry) -> None:
        self._tenant_requests = CounterMetric(
            "regrade_tenant_requests_total",
            "Requests of tenants, by whether their budgets admitted them.",
            ("tenant", "outcome"),
            registry=registry,
        )
        self._tenant_items = CounterMetric(
            "regrade_tenant_items_total", "Items admitted, by tenant.", ("tenant",), registry=registry
        )
        self._tenant_bytes = CounterMetric(
            "regrade_tenant_bytes_total", "Bytes of bodies admitted, by tenant.", ("tenant",), registry=registry
        )

    def _measure_judge(self, registry: CollectorRegistry) -> None:
        self._calls = Histogram(
            "regrade_judge_call_seconds", "Engine requests.", ("outcome",), buckets=_CALL_SECONDS, registry=registry
        )
        self._in_flight = Gauge(
            "regrade_judge_in_flight_calls", "Conversations in flight with the engine.", registry=registry
        )
        self._waiting = Gauge(
            "regrade_judge_waiting_calls", "Conversations that wait for the engine.", registry=registry
        )
        self._capacity = Gauge(
            "regrade_judge_capacity_calls", "Most conversations in flight with the engine.", registry=registry
        )
        self._tokens = CounterMetric(
            "regrade_judge_tokens_total", "Tokens by kind.", ("task", "kind"), registry=registry
        )
        self._ejected = Gauge(
            "regrade_judge_ejected_endpoints", "Engine endpoints ejected after failures.", registry=registry
        )
        self._retries = CounterMetric(
            "regrade_judge_retries_total",
            "Failed engine requests, by whether they were retried.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("tried", "over_budget"):  # so that a rate is 0, not absent, before the first count
            self._retries.labels(outcome)

    def _measure_outages(self, registry: CollectorRegistry) -> None:
        self._degraded = Gauge(
            "regrade_degraded_state",
            "1 while Redis is unavailable and answers are degraded, else 0.",
            registry=registry,
        )
        self._spool_bytes = Gauge("regrade_spool_bytes", "Size of this replica's spool.", registry=registry)
        self._spool_records = Gauge(
            "regrade_spool_records", "Items in the spool that Redis has not acknowledged.", registry=registry
        )
        self._spool_limit = Gauge(
            "regrade_spool_limit_bytes", "Largest size of the spool; 0: no spool.", registry=registry
        )
        self._replayed = CounterMetric(
            "regrade_spool_replayed_records_total", "Spooled items that Redis has acknowledged.", registry=registry
        )

    @contextmanager
    def judge_call(self, conversations: int) -> Iterator[Callable[[Sequence[object]], None]]:
        """Time one engine request; what it yields is told the answers, an `UpstreamError` among them or not."""
        started = time.perf_counter()
        outcome = "dropped"

        def ended(answers: Sequence[object]) -> None:
            nonlocal outcome
            failed = next((answer for answer in answers if isinstance(answer, UpstreamError)), None)
            outcome = "ok" if failed is None else type(failed).__name__

        self._in_flight.inc(conversations)
        try:
            yield ended
        finally:
            self._in_flight.dec(conversations)
            self._calls.labels(outcome).observe(time.perf_counter() - started)

    def count_batch(
        self, request: ScoreRequest, results: Sequence[ItemResult], groups: Sequence[str], usage: Usage
    ) -> None:
        """Count a batch's outcomes and tokens; `groups` are the items' groups."""
        outcomes = Counter(_outcome(result) for result in results)
        for outcome, count in outcomes.items():
            self._items.labels(request.task, request.purpose.value, outcome).inc(count)
        if request.purpose is Purpose.TRAIN:
            self._count_training(request.task, results, groups)
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
        ):
            self._tokens.labels(request.task, kind).inc(count)

    def _count_training(self, task: str, results: Sequence[ItemResult], groups: Sequence[str]) -> None:
        """Rewards, flags, and whether a group's rewards differ."""
        rewards = self._rewards.labels(task)
        flags: Counter[str] = Counter()
        by_group: defaultdict[str, list[float]] = defaultdict(list)
        for group, result in zip(groups, results, strict=True):
            if result.reward is not None and not result.cached:
                rewards.observe(result.reward)
                flags.update(result.flags)
                by_group[group].append(result.reward)
        for flag in flags.keys() & _FLAGS:
            self._flags.labels(task, flag).inc(flags[flag])
        for members in by_group.values():
            if len(members) > 1:
                spread = "some" if max(members) - min(members) > _NO_SPREAD else "none"
                self._groups.labels(task, spread).inc()

    def count_tenant_request(
        self, name: str, outcome: Literal["admitted", "refused"], items: int = 0, size: int = 0
    ) -> None:
        """Count a request of a configured tenant, and its items and bytes if it was admitted."""
        self._tenant_requests.labels(name, outcome).inc()
        if items:
            self._tenant_items.labels(name).inc(items)
            self._tenant_bytes.labels(name).inc(size)

    def watch_admission(self, waiting: Callable[[], int], capacity: int) -> None:
        """Read `waiting` at each scrape."""
        self._waiting.set_function(waiting)
        self._capacity.set(capacity)

    def watch_outages(
        self,
        redis_unavailable: Callable[[], bool],
        spool_bytes: Callable[[], int],
        spool_records: Callable[[], int],
        limit: int,
    ) -> None:
        """Read these at each scrape; `limit` is the spool's size limit in bytes."""
        self._spool_limit.set(limit)
        self._degraded.set_function(redis_unavailable)
        self._spool_bytes.set_function(spool_bytes)
        self._spool_records.set_function(spool_records)

    def replayed(self, records: int) -> None:
        """Count spooled items that Redis has acknowledged."""
        self._replayed.inc(records)

    def endpoints_ejected(self, count: int) -> None:
        """Set the number of ejected engine endpoints."""
        self._ejected.set(count)

    def retry(self, *, afforded: bool) -> None:
        """Count a retry, or one that the budget did not allow."""
        self._retries.labels("tried" if afforded else "over_budget").inc()

    def trace_log(self, task: str, entries: int, size: int) -> None:
        """Set the size of a task's trace log."""
        self._trace_entries.labels(task).set(entries)
        self._trace_bytes.labels(task).set(size)

    def limit_trace_logs(self, size: int) -> None:
        """Set the cap of a trace log in bytes."""
        self._trace_limit.set(size)

    def restored(self, task: str, origin: str) -> None:
        """Count a lineage whose active rubric Redis had lost."""
        self._restored.labels(task, origin).inc()

    def activated(self, task: str, lineage: str, version: int) -> None:
        """Set the active rubric's version, and the time at which this replica first saw it."""
        self._active.labels(task, lineage).set(version)
        if self._versions.get((task, lineage)) != version:
            self._versions[task, lineage] = version
            self._active_since.labels(task, lineage).set_to_current_time()


def _outcome(result: ItemResult) -> str:
    if result.error is not None:
        return result.error.code.value
    return "cached" if result.cached else "scored"
