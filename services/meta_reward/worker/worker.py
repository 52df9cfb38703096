"""The worker polls every lineage: it starts due cycles, watches activations, and has traces audited."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from regrade.contracts import Alarm, CycleStatus, GatePass, LineageEvent, Trace
from regrade.errors import RegradeError
from regrade.tasks import load_pack
from services.kit.errors import Conflict, ServiceError
from services.kit.redis_faults import fault_of
from services.kit.store.keys import LineageKey
from services.meta_reward.cycle import run_cycle
from services.meta_reward.cycle_run import CycleRun, PendingTraces
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.evidence.alarms import update_alarms
from services.meta_reward.evidence.audit import AuditChange, change_by_activation, change_since_activation
from services.meta_reward.evidence.window import extend_baselines, is_evidence, summarise_window
from services.meta_reward.gate.reasons import count_outcomes
from services.meta_reward.lineages import evolving_lineages
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.monitoring.auditor import Auditor
from services.meta_reward.monitoring.rollback import audit_contradiction_reason, spread_collapse_reason
from services.meta_reward.stores.leases import Leases
from services.meta_reward.stores.status import CycleRequest, WatchCheck
from services.meta_reward.worker.backoff import Backoff
from services.meta_reward.worker.trace_tail import TraceTail
from services.meta_reward.worker.triggers import due_trigger

log = logging.getLogger(__name__)

_BEFORE_PER_AFTER = 4
"""The watch compares the traces under a new rubric with up to this many times as many under the one before."""
_ALARM_REFRESH = 4
"""Alarms are evaluated again when one in so many of the newest traces is new, which saves three evaluations in four."""


class Worker:
    """Runs due cycles, one lineage at a time. Any number of workers may run: a lineage's lease admits one."""

    def __init__(self, deps: ServiceDeps, leases: Leases, metrics: MetaRewardMetrics) -> None:
        self._deps = deps
        self._leases = leases
        self._metrics = metrics
        self._backoff: defaultdict[LineageKey, Backoff] = defaultdict(Backoff)
        self._pending: dict[LineageKey, TraceTail] = {}
        self._since_activation: dict[LineageKey, TraceTail] = {}
        self._redis_available = True

    async def run(self) -> None:
        """Run due cycles of every lineage until cancelled."""
        await self._poll(self.run_due_cycle)

    async def keep_watch(self) -> None:
        """Watch the activations of every lineage until cancelled, also while a cycle runs."""
        await self._poll(self.watch)

    async def keep_auditing(self, auditor: Auditor) -> None:
        """Audit every lineage until cancelled, also while a cycle runs; a failing audit is retried with back-off."""
        backoff: defaultdict[LineageKey, Backoff] = defaultdict(Backoff)

        async def audit(lineage: LineageKey) -> None:
            if not backoff[lineage].is_over(time.monotonic()):
                return
            try:
                await auditor.audit_new_traces(lineage)
            except Exception:
                backoff[lineage].failed(time.monotonic())
                raise
            backoff[lineage].succeeded()

        await self._poll(audit)

    async def _poll(self, work: Callable[[LineageKey], Awaitable[None]]) -> None:
        """Do `work` for every lineage at every poll. An error is logged and counted, and the polling goes on."""
        while True:
            for lineage in await self._lineages():
                try:
                    await work(lineage)
                except (RedisError, RegradeError, ServiceError) as error:
                    self._metrics.failures.labels(lineage.task, type(error).__name__).inc()
                    log.warning("polling a lineage failed", exc_info=True, extra={"task": lineage.task})
                except Exception:
                    self._metrics.failures.labels(lineage.task, "unexpected").inc()
                    log.exception("polling a lineage failed unexpectedly", extra={"task": lineage.task})
            await asyncio.sleep(self._deps.settings.poll_s)

    async def _lineages(self) -> tuple[LineageKey, ...]:
        """The lineages; none while Redis is unavailable, which is logged once for each outage."""
        try:
            lineages = await evolving_lineages(self._deps.store, self._deps.settings)
        except RedisError as error:
            if self._redis_available:
                fault = fault_of(error)
                level = logging.ERROR if fault.is_lasting else logging.WARNING
                extra = {"kind": fault.kind, "detail": fault.detail}
                log.log(level, f"waiting for Redis: {fault.sentence}", extra=extra)
            self._redis_available = False
            return ()
        self._redis_available = True
        return lineages

    async def run_due_cycle(self, lineage: LineageKey) -> None:
        """Run a cycle of the lineage if one is due and no other worker runs it."""
        deps = self._deps
        await self._notice_loss(lineage)
        active = await deps.store.active(lineage)
        if active is None:
            return
        # Read before the traces: a cycle on request then covers every trace that came before the request.
        request = await deps.status_store.requested(lineage)
        cursor = await deps.log.cursor(lineage)
        tail = self._pending.get(lineage)
        if tail is None or tail.start != cursor:
            tail = TraceTail(cursor, limit=deps.settings.max_window, newest=deps.settings.alarm_traces)
            self._pending[lineage] = tail
        await tail.read(deps.log, lineage, is_evidence)
        self._metrics.lag(lineage, tail.total)
        await deps.status_store.set_lag(lineage, tail.total)
        alarms = await self._alarms(lineage, active.digest, tail)
        if await deps.checkpoints.exists(lineage):
            trigger: str | None = "a cycle had not ended"
        elif request is not None:
            trigger = await self._trigger_of_request(lineage, request, tail.total)
        else:
            status = await deps.status_store.status(lineage)
            trigger = due_trigger(deps.settings, status, tail.head, alarms, cursor, time.time())
            if not tail.head:
                await deps.log.advance_cursor(lineage, tail.end)
        if trigger is not None and self._backoff[lineage].is_over(time.monotonic(), request):
            pending = PendingTraces(cursor, tuple(tail.head), tail.head_end)
            await self._run_cycle(lineage, trigger, request, pending)

    async def _trigger_of_request(self, lineage: LineageKey, request: CycleRequest, pending: int) -> str | None:
        """The trigger of a requested cycle; a cycle that ran meanwhile may have read the traces it was meant for."""
        if pending >= self._deps.settings.traces_for_request:
            return f"requested by {request.by}: {request.reason}"
        log.info("a request is withdrawn: too few traces", extra={"task": lineage.task, "traces": pending})
        await self._deps.status_store.withdraw(lineage, request)
        return None

    async def _notice_loss(self, lineage: LineageKey) -> None:
        """Forget what this worker has read of a lineage whose cursor Redis has lost, and say so."""
        is_new = await self._deps.log.open_cursor(lineage)
        if is_new and self._pending.pop(lineage, None) is not None:
            self._since_activation.pop(lineage, None)
            self._metrics.failures.labels(lineage.task, "RedisDataLost").inc()
            log.error(
                "Redis has lost a lineage's cursor, and perhaps its traces, history, anchors and pause; its cycles "
                "start anew with the traces that are there",
                extra={"task": lineage.task, "lineage": lineage.label},
            )

    async def _alarms(self, lineage: LineageKey, active: str, tail: TraceTail) -> list[Alarm]:
        """The raised alarms, evaluated on the newest traces when enough of them are new."""
        status_store, count = self._deps.status_store, self._deps.settings.alarm_traces
        raised = await status_store.alarms(lineage)
        if count == 0 or tail.total < count or tail.total < tail.total_at_alarms + count // _ALARM_REFRESH:
            return raised
        newest = list(tail.newest)
        traces = [*tail.head, *newest]  # far more may be pending than a window holds: then it ends before the newest
        known = await status_store.baselines(lineage, {trace.run for trace in traces})
        audit = None
        if self._deps.audits is not None:
            audits = await self._deps.audits.read(lineage)
            audit = change_since_activation(audits, active, self._deps.settings.audit_window)
        summary = await asyncio.to_thread(summarise_window, newest, extend_baselines(known, traces), audit=audit)
        alarms = list(update_alarms(summary, raised, tail.end))
        await status_store.set_alarms(lineage, alarms)
        tail.total_at_alarms = tail.total
        return alarms

    async def _run_cycle(
        self, lineage: LineageKey, trigger: str, request: CycleRequest | None, pending: PendingTraces
    ) -> None:
        deps = self._deps
        async with self._leases.hold(lineage) as token:
            if token is None:
                return
            # Kept when the cycle is cancelled, which is neither a success nor an error.
            status = CycleStatus(error=(await deps.status_store.status(lineage)).error)
            run = CycleRun(deps, lineage, load_pack(lineage.task), token, trigger, request, pending)
            try:
                with self._metrics.cycles.labels(lineage.task).time():
                    report = await run_cycle(run)
                status = CycleStatus()
            except Exception as error:
                self._backoff[lineage].failed(time.monotonic(), request)
                status = CycleStatus(error=f"{type(error).__name__}: {error}")
                raise
            finally:
                self._metrics.stages(lineage.task, run.stage_seconds)
                await deps.status_store.set_status(lineage, status)
            self._backoff[lineage].succeeded()
        if report is None:
            if request is not None:
                await deps.status_store.withdraw(lineage, request)
            return
        self._metrics.outcomes(lineage.task, count_outcomes(await deps.store.history(lineage), report.cycle))
        if report.activated is not None:
            self._metrics.activations.labels(lineage.task).inc()

    async def watch(self, lineage: LineageKey) -> None:
        """Check the last gated activation once by its first traces and once by the audit; roll it back if either fails.

        During the cooldown after an automatic rollback nothing is checked; the checks follow when it is over.
        """
        last = await self._deps.store.last_change(lineage)
        if last is None or last.previous is None or not isinstance(last.authority, GatePass):
            return
        if await self._deps.store.in_rollback_cooldown(lineage):
            return
        reason = await self._spread_reason(lineage, last, last.previous)
        if reason is not None:
            await self._roll_back(lineage, last, reason, "spread")
            return
        change = await self._audited_change(lineage, last, last.previous)
        if change is None:
            return
        reason = audit_contradiction_reason(change)
        if reason is None:
            await self._deps.status_store.confirm_activation(lineage, "audit", last.id)
        else:
            await self._roll_back(lineage, last, reason, "audit")

    async def _spread_reason(self, lineage: LineageKey, last: LineageEvent, previous: str) -> str | None:
        """The reason to roll back by the first traces; None when there are too few, or the check was done before."""
        deps, count = self._deps, self._deps.settings.watch_traces
        if await deps.status_store.confirmed_activation(lineage, "spread") == last.id:
            return None
        # Lineage events and traces are streams of one Redis, so their ids come from one clock and can be compared.
        tail = self._since_activation.get(lineage)
        if tail is None or tail.start != last.id:
            tail = self._since_activation[lineage] = TraceTail(last.id, limit=count)
        await tail.read(deps.log, lineage, _scored_under(lineage, last.digest))
        if len(tail.head) < count:
            return None
        before = await deps.log.recent(
            lineage.task, _BEFORE_PER_AFTER * count, until=last.id, wanted=_scored_under(lineage, previous)
        )
        reason = spread_collapse_reason(before.traces, tail.head, await self._trusted_mean(lineage, last))
        if reason is None:
            await deps.status_store.confirm_activation(lineage, "spread", last.id)
        return reason

    async def _audited_change(self, lineage: LineageKey, last: LineageEvent, previous: str) -> AuditChange | None:
        """The change by the audit; None without an audit, with too few traces, or when the check was done before."""
        audits, window = self._deps.audits, self._deps.settings.audit_window
        if audits is None or await self._deps.status_store.confirmed_activation(lineage, "audit") == last.id:
            return None
        return change_by_activation(await audits.read(lineage), previous, last.digest, last.id, window)

    async def _roll_back(self, lineage: LineageKey, last: LineageEvent, reason: str, check: WatchCheck) -> None:
        cooldown_s = self._deps.settings.watch_cooldown_s
        try:
            await self._deps.store.rollback(
                lineage, by="watch", reason=reason, expected=last.digest, cooldown_s=cooldown_s
            )
        except Conflict as error:
            log.info("no rollback", extra={"task": lineage.task, "detail": error.detail})
        else:
            self._metrics.rollbacks.labels(lineage.task, check).inc()
            log.warning("rolled back", extra={"task": lineage.task, "reason": reason})

    async def _trusted_mean(self, lineage: LineageKey, activation: LineageEvent) -> float | None:
        """Mean reward of trusted originals under the activated rubric, as the gate measured it."""
        history = await self._deps.store.history(lineage)
        gates = [e.gate for e in history if e.gate and (e.digest, e.cycle) == (activation.digest, activation.cycle)]
        return gates[-1].candidate.trusted_mean if gates else None


def _scored_under(lineage: LineageKey, digest: str) -> Callable[[Trace], bool]:
    """Whether a trace is evidence of the lineage, scored by the rubric of that digest."""
    return lambda t: is_evidence(t) and t.digest == digest and (t.lineage, t.scope) == (lineage.name, lineage.scope)
