"""What the reward service measures of itself; label values come from closed sets."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from regrade.contracts import ItemResult, ScoreRequest, Usage
from services.kit.http import UpstreamError

_CALL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_REWARDS = tuple(n / 10 for n in range(11))


class RewardMetrics:
    """Counters and histograms of one app. `task` labels are names of activated tasks, never free text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._items = Counter(
            "regrade_items_total", "Items by outcome.", ("task", "purpose", "outcome"), registry=registry
        )
        self._rewards = Histogram(
            "regrade_reward_ratio", "Rewards of training items.", ("task",), buckets=_REWARDS, registry=registry
        )
        self._calls = Histogram(
            "regrade_judge_call_seconds", "Engine calls.", ("outcome",), buckets=_CALL_SECONDS, registry=registry
        )
        self._in_flight = Gauge("regrade_judge_in_flight_calls", "Engine calls under way.", registry=registry)
        self._tokens = Counter("regrade_judge_tokens_total", "Tokens by kind.", ("task", "kind"), registry=registry)
        self._degraded = Gauge(
            "regrade_degraded_state", "1 while Redis is away and answers are degraded, else 0.", registry=registry
        )
        self._spool_bytes = Gauge("regrade_spool_bytes", "Size of this replica's spool.", registry=registry)
        self._spool_records = Gauge(
            "regrade_spool_records", "Items in the spool that Redis has not acknowledged.", registry=registry
        )
        self._replayed = Counter(
            "regrade_spool_replayed_records_total", "Spooled items that Redis has acknowledged.", registry=registry
        )
        self._active = Gauge(
            "regrade_active_rubric_version", "Version of the active rubric.", ("task", "lineage"), registry=registry
        )

    @contextmanager
    def judge_call(self) -> Iterator[None]:
        """Time one engine call and note how it ended."""
        started = time.perf_counter()
        outcome = "ok"
        with self._in_flight.track_inprogress():
            try:
                yield
            except UpstreamError as error:
                outcome = type(error).__name__
                raise
            finally:
                self._calls.labels(outcome).observe(time.perf_counter() - started)

    def scored(self, request: ScoreRequest, results: tuple[ItemResult, ...], usage: Usage) -> None:
        """Count a batch's outcomes and tokens."""
        for result in results:
            outcome = "cached" if result.cached else "scored" if result.error is None else result.error.code.value
            self._items.labels(request.task, request.purpose.value, outcome).inc()
            if request.purpose == "train" and result.reward is not None and not result.cached:
                self._rewards.labels(request.task).observe(result.reward)
        self._tokens.labels(request.task, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(request.task, "cached").inc(usage.cached_tokens)
        self._tokens.labels(request.task, "completion").inc(usage.completion_tokens)

    def watch_outages(
        self, away: Callable[[], bool], spool_bytes: Callable[[], int], spool_records: Callable[[], int]
    ) -> None:
        """Ask these whenever the metrics are read."""
        self._degraded.set_function(away)
        self._spool_bytes.set_function(spool_bytes)
        self._spool_records.set_function(spool_records)

    def replayed(self, records: int) -> None:
        """Count spooled items that Redis has taken."""
        self._replayed.inc(records)

    def activated(self, task: str, lineage: str, version: int) -> None:
        """Note which rubric is active now."""
        self._active.labels(task, lineage).set(version)
