"""The worker: looks at every line, starts a cycle when one is due, and watches what was activated."""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence

from redis.exceptions import RedisError

from regrade.contracts import Alarm, CycleStatus, GatePass, LineageEvent, Trace
from regrade.errors import RegradeError
from regrade.tasks import load_pack
from services.kit.errors import Conflict, ServiceError
from services.kit.store.keys import LineageKey
from services.kit.store.trace_log import TraceLog
from services.meta_reward.cycle import Cycle, CycleDeps
from services.meta_reward.evidence.alarms import update_alarms
from services.meta_reward.evidence.audit import AuditChange, change_by_activation, change_since_activation
from services.meta_reward.evidence.window import extend_baselines, is_evidence, summarise_window
from services.meta_reward.gate.reasons import count_outcomes
from services.meta_reward.lineages import lineages_of
from services.meta_reward.metrics import MetaRewardMetrics, RollbackReason
from services.meta_reward.monitoring.auditor import Auditor
from services.meta_reward.monitoring.rollback import audit_contradiction_reason, spread_collapse_reason
from services.meta_reward.stores.leases import Leases
from services.meta_reward.stores.status import CycleRequest
from services.meta_reward.worker.backoff import Backoff
from services.meta_reward.worker.triggers import due_trigger

log = logging.getLogger(__name__)


class _TraceTail:
    """A line's traces behind a position, each read once: a look reads on from where the last one ended."""

    def __init__(self, start: str, newest: int) -> None:
        self.start = self.end = start
        self.seen = self.measured = 0
        """How many there are, and how many there were when the alarms were last measured."""
        self.newest: deque[Trace] = deque(maxlen=newest)
        self._traces: list[Trace] = []

    async def read(
        self, log: TraceLog, lineage: LineageKey, count: int, wanted: Callable[[Trace], bool]
    ) -> list[Trace]:
        """Those of the first `count` that are there by now; what is behind them is counted, and the newest kept."""
        window = await log.read(lineage, self.end, count, wanted)
        self._traces.extend(window.traces[: count - len(self._traces)])
        self.newest.extend(window.traces)
        self.seen += len(window.traces)
        self.end = window.end
        return self._traces


class Worker:
    """Runs cycles, one line at a time. Any number of workers may run: a line's lease admits one."""

    def __init__(self, deps: CycleDeps, leases: Leases, metrics: MetaRewardMetrics) -> None:
        self._deps = deps
        self._leases = leases
        self._metrics = metrics
        self._backoff: defaultdict[LineageKey, Backoff] = defaultdict(Backoff)
        self._waiting: dict[LineageKey, _TraceTail] = {}
        self._watched: dict[LineageKey, _TraceTail] = {}

    async def run(self) -> None:
        """Look at every line again and again, until cancelled."""
        await self._poll(self.run_due_cycle)

    async def keep_watch(self) -> None:
        """Watch every line, also while a cycle runs, until cancelled."""
        await self._poll(self.watch)

    async def keep_auditing(self, auditor: Auditor) -> None:
        """Audit every line, also while a cycle runs, until cancelled; an audit that fails waits ever longer."""
        failures: defaultdict[LineageKey, Backoff] = defaultdict(Backoff)

        async def audit(lineage: LineageKey) -> None:
            if not failures[lineage].is_over(time.monotonic()):
                return
            try:
                await auditor.audit_new_traces(lineage)
            except Exception:
                failures[lineage].failed(time.monotonic())
                raise
            failures[lineage].succeeded()

        await self._poll(audit)

    async def _poll(self, summarise_window: Callable[[LineageKey], Awaitable[None]]) -> None:
        """A line that fails is logged and looked at again; it never ends the worker."""
        while True:
            for lineage in await self._lineages():
                await self._look(lineage, summarise_window)
            await asyncio.sleep(self._deps.settings.poll_s)

    async def _lineages(self) -> tuple[LineageKey, ...]:
        try:
            return await lineages_of(self._deps.store, self._deps.settings)
        except RedisError:
            log.warning("the lines cannot be told", exc_info=True)
            return ()

    async def _look(self, lineage: LineageKey, summarise_window: Callable[[LineageKey], Awaitable[None]]) -> None:
        try:
            await summarise_window(lineage)
        except (RedisError, RegradeError, ServiceError) as error:
            self._metrics.failed(lineage.task, type(error).__name__)
            log.warning("a look at a line failed", exc_info=True, extra={"task": lineage.task})
        except Exception:
            self._metrics.failed(lineage.task, "unexpected")
            log.exception("a look at a line failed unexpectedly", extra={"task": lineage.task})

    async def run_due_cycle(self, lineage: LineageKey) -> None:
        """Run a cycle if one is due and nobody else runs it."""
        deps = self._deps
        active = await deps.store.active(lineage)
        if active is None:
            return
        cursor = await deps.log.cursor(lineage)
        tail = _tail_from(self._waiting, lineage, cursor, deps.settings.alarm_traces)
        waiting = await tail.read(deps.log, lineage, deps.settings.max_window, is_evidence)
        self._metrics.lag(lineage, tail.seen)
        await deps.status_store.set_lag(lineage, tail.seen)
        alarms = await self._alarms(lineage, active.digest, tail, waiting)
        request = await deps.status_store.requested(lineage)
        if await deps.checkpoints.exists(lineage):
            trigger: str | None = "one had begun and not ended"
        elif request is not None:
            trigger = f"requested by {request.by}: {request.reason}"
        else:
            trigger = due_trigger(
                deps.settings, await deps.status_store.status(lineage), waiting, alarms, cursor, time.time()
            )
            if not waiting:
                await deps.log.advance_cursor(lineage, tail.end)
        if trigger is not None and self._backoff[lineage].is_over(time.monotonic(), request):
            await self._run_cycle(lineage, trigger, request)

    async def _alarms(
        self, lineage: LineageKey, active: str, tail: _TraceTail, waiting: Sequence[Trace]
    ) -> list[Alarm]:
        """What is raised; measured again on the newest traces once a quarter of them is new."""
        status_store, count = self._deps.status_store, self._deps.settings.alarm_traces
        raised = await status_store.alarms(lineage)
        if count == 0 or tail.seen < count or tail.seen < tail.measured + count // 4:
            return raised
        newest = list(tail.newest)
        shown = [*waiting, *newest]  # by far more may wait than a window holds: then the newest are not of it
        known = await status_store.baselines(lineage, {trace.run for trace in shown})
        audit = None
        if self._deps.audits is not None:
            audits = await self._deps.audits.read(lineage)
            audit = change_since_activation(audits, active, self._deps.settings.audit_window)
        measured = await asyncio.to_thread(summarise_window, newest, extend_baselines(known, shown), audit=audit)
        standing = list(update_alarms(measured, raised, tail.end))
        await status_store.set_alarms(lineage, standing)
        tail.measured = tail.seen
        return standing

    async def _run_cycle(self, lineage: LineageKey, trigger: str, request: CycleRequest | None) -> None:
        deps = self._deps
        async with self._leases.hold(lineage) as token:
            if token is None:
                return
            status = CycleStatus(
                error=(await deps.status_store.status(lineage)).error
            )  # where neither of the two comes about
            cycle = Cycle(deps, lineage, load_pack(lineage.task), token, trigger, request)
            try:
                with self._metrics.cycle(lineage.task):
                    report = await cycle.run()
                status = CycleStatus()
            except Exception as error:
                self._backoff[lineage].failed(time.monotonic(), request)
                status = CycleStatus(error=f"{type(error).__name__}: {error}")
                raise
            finally:
                self._metrics.stages(lineage.task, cycle.stage_seconds)
                await deps.status_store.set_status(lineage, status)
            self._backoff[lineage].succeeded()
        if request is not None and report is None:
            await deps.status_store.withdraw(lineage, request)
        if report is not None:
            self._metrics.verdicts(lineage.task, count_outcomes(await deps.store.history(lineage), report.cycle))
        if report is not None and report.activated is not None:
            self._metrics.activated(lineage.task)

    async def watch(self, lineage: LineageKey) -> None:
        """Judge a gated activation once by its first traces, and once by the audit; roll it back when one calls for it.

        While an automatic rollback cools down nothing is judged: it is as soon as that is over.
        """
        store = self._deps.store
        last = await store.last_change(lineage)
        if last is None or last.previous is None or not isinstance(last.authority, GatePass):
            return
        if await store.in_rollback_cooldown(lineage):
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
            await self._deps.status_store.settle_audit(lineage, last.id)
        else:
            await self._roll_back(lineage, last, reason, "audit")

    async def _spread_reason(self, lineage: LineageKey, last: LineageEvent, previous: str) -> str | None:
        """Why an activation has to go by its first traces; None where it is settled, too young, or has none."""
        deps = self._deps
        if await deps.status_store.settled(lineage) == last.id:
            return None
        # Lineage and traces are streams of one Redis: their ids are times of one clock.
        count = deps.settings.watch_traces
        after = await _tail_from(self._watched, lineage, last.id, 0).read(
            deps.log, lineage, count, _scored_under(lineage, last.digest)
        )
        if len(after) < count:
            return None
        earlier = _scored_under(lineage, previous)
        before = (await deps.log.recent(lineage.task, 4 * count, until=last.id, wanted=earlier)).traces
        reason = spread_collapse_reason(before, after, await self._trusted_mean(lineage, last))
        if reason is None:
            await deps.status_store.settle(lineage, last.id)
        return reason

    async def _audited_change(self, lineage: LineageKey, last: LineageEvent, previous: str) -> AuditChange | None:
        """What the audit says of an activation; None where nobody audits, it is settled or too young."""
        audits, window = self._deps.audits, self._deps.settings.audit_window
        if audits is None or await self._deps.status_store.audit_settled(lineage) == last.id:
            return None
        return change_by_activation(await audits.read(lineage), previous, last.digest, last.id, window)

    async def _roll_back(self, lineage: LineageKey, last: LineageEvent, reason: str, kind: RollbackReason) -> None:
        cooldown_s = self._deps.settings.watch_cooldown_s
        try:
            await self._deps.store.rollback(
                lineage, by="watch", reason=reason, expected=last.digest, cooldown_s=cooldown_s
            )
        except Conflict as error:
            log.info("no rollback", extra={"task": lineage.task, "detail": error.detail})
        else:
            self._metrics.rolled_back(lineage.task, kind)
            log.warning("rolled back", extra={"task": lineage.task, "reason": reason})

    async def _trusted_mean(self, lineage: LineageKey, activation: LineageEvent) -> float | None:
        """What trusted originals scored under a rubric when the gate let it pass."""
        history = await self._deps.store.history(lineage)
        gates = [e.gate for e in history if e.gate and (e.digest, e.cycle) == (activation.digest, activation.cycle)]
        return gates[-1].candidate.trusted_mean if gates else None


def _tail_from(tails: dict[LineageKey, _TraceTail], lineage: LineageKey, start: str, newest: int) -> _TraceTail:
    """The line's tail from `start`; one from elsewhere is given up."""
    tail = tails.get(lineage)
    if tail is None or tail.start != start:
        tail = tails[lineage] = _TraceTail(start, newest)
    return tail


def _scored_under(lineage: LineageKey, digest: str) -> Callable[[Trace], bool]:
    """Whether a trace is a line's evidence about the rubric of that digest."""
    return lambda t: is_evidence(t) and t.digest == digest and (t.lineage, t.scope) == (lineage.name, lineage.scope)
