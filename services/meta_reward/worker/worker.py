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
from services.kit.store.keys import Line
from services.kit.store.leases import Leases
from services.kit.store.trace_log import TraceLog
from services.meta_reward.cycle import Cycle, Parts
from services.meta_reward.evidence.alarms import ring
from services.meta_reward.evidence.audit import Change, by_activation, since_activation
from services.meta_reward.evidence.window import first_steps, is_evidence, look
from services.meta_reward.gate.reasons import verdicts
from services.meta_reward.lineages import lines_of
from services.meta_reward.metrics import MetaRewardMetrics, RollbackReason
from services.meta_reward.monitoring.auditor import Auditor
from services.meta_reward.monitoring.rollback import audit_reason, reason_to_roll_back
from services.meta_reward.stores.status import Request
from services.meta_reward.worker.backoff import Backoff
from services.meta_reward.worker.triggers import due

log = logging.getLogger(__name__)


class _Tail:
    """A line's traces behind a position, each read once: a look reads on from where the last one ended."""

    def __init__(self, start: str, newest: int) -> None:
        self.start = self.end = start
        self.seen = self.measured = 0
        """How many there are, and how many there were when the alarms were last measured."""
        self.newest: deque[Trace] = deque(maxlen=newest)
        self._traces: list[Trace] = []

    async def read(self, log: TraceLog, line: Line, count: int, wanted: Callable[[Trace], bool]) -> list[Trace]:
        """Those of the first `count` that are there by now; what is behind them is counted, and the newest kept."""
        window = await log.read(line, self.end, count, wanted)
        self._traces.extend(window.traces[: count - len(self._traces)])
        self.newest.extend(window.traces)
        self.seen += len(window.traces)
        self.end = window.end
        return self._traces


class Worker:
    """Runs cycles, one line at a time. Any number of workers may run: a line's lease admits one."""

    def __init__(self, parts: Parts, leases: Leases, metrics: MetaRewardMetrics) -> None:
        self._parts = parts
        self._leases = leases
        self._metrics = metrics
        self._backoff: defaultdict[Line, Backoff] = defaultdict(Backoff)
        self._waiting: dict[Line, _Tail] = {}
        self._watched: dict[Line, _Tail] = {}

    async def run(self) -> None:
        """Look at every line again and again, until cancelled."""
        await self._poll(self.look_at)

    async def keep_watch(self) -> None:
        """Watch every line, also while a cycle runs, until cancelled."""
        await self._poll(self.watch)

    async def keep_auditing(self, auditor: Auditor) -> None:
        """Audit every line, also while a cycle runs, until cancelled; an audit that fails waits ever longer."""
        failures: defaultdict[Line, Backoff] = defaultdict(Backoff)

        async def audit(line: Line) -> None:
            if not failures[line].is_over(time.monotonic()):
                return
            try:
                await auditor.look_at(line)
            except Exception:
                failures[line].failed(time.monotonic())
                raise
            failures[line].succeeded()

        await self._poll(audit)

    async def _poll(self, look: Callable[[Line], Awaitable[None]]) -> None:
        """A line that fails is logged and looked at again; it never ends the worker."""
        while True:
            for line in await self._lines():
                await self._look(line, look)
            await asyncio.sleep(self._parts.settings.poll_s)

    async def _lines(self) -> tuple[Line, ...]:
        try:
            return await lines_of(self._parts.store, self._parts.settings)
        except RedisError:
            log.warning("the lines cannot be told", exc_info=True)
            return ()

    async def _look(self, line: Line, look: Callable[[Line], Awaitable[None]]) -> None:
        try:
            await look(line)
        except (RedisError, RegradeError, ServiceError) as error:
            self._metrics.failed(line.task, type(error).__name__)
            log.warning("a look at a line failed", exc_info=True, extra={"task": line.task})
        except Exception:
            self._metrics.failed(line.task, "unexpected")
            log.exception("a look at a line failed unexpectedly", extra={"task": line.task})

    async def look_at(self, line: Line) -> None:
        """Run a cycle if one is due and nobody else runs it."""
        parts = self._parts
        active = await parts.store.active(line)
        if active is None:
            return
        cursor = await parts.log.cursor(line)
        tail = _tail(self._waiting, line, cursor, parts.settings.alarm_traces)
        waiting = await tail.read(parts.log, line, parts.settings.max_window, is_evidence)
        self._metrics.lag(line, tail.seen)
        await parts.board.set_lag(line, tail.seen)
        alarms = await self._alarms(line, active.digest, tail, waiting)
        request = await parts.board.requested(line)
        if await parts.checkpoints.exists(line):
            trigger: str | None = "one had begun and not ended"
        elif request is not None:
            trigger = f"requested by {request.by}: {request.reason}"
        else:
            trigger = due(parts.settings, await parts.board.status(line), waiting, alarms, cursor, time.time())
            if not waiting:
                await parts.log.pass_over(line, tail.end)
        if trigger is not None and self._backoff[line].is_over(time.monotonic(), request):
            await self._run_cycle(line, trigger, request)

    async def _alarms(self, line: Line, active: str, tail: _Tail, waiting: Sequence[Trace]) -> list[Alarm]:
        """What is raised; measured again on the newest traces once a quarter of them is new."""
        board, count = self._parts.board, self._parts.settings.alarm_traces
        raised = await board.alarms(line)
        if count == 0 or tail.seen < count or tail.seen < tail.measured + count // 4:
            return raised
        newest = list(tail.newest)
        shown = [*waiting, *newest]  # by far more may wait than a window holds: then the newest are not of it
        known = await board.baselines(line, {trace.run for trace in shown})
        audit = None
        if self._parts.audits is not None:
            audits = await self._parts.audits.read(line)
            audit = since_activation(audits, active, self._parts.settings.audit_window)
        measured = await asyncio.to_thread(look, newest, first_steps(known, shown), audit=audit)
        standing = list(ring(measured, raised, tail.end))
        await board.set_alarms(line, standing)
        tail.measured = tail.seen
        return standing

    async def _run_cycle(self, line: Line, trigger: str, request: Request | None) -> None:
        parts = self._parts
        async with self._leases.hold(line) as token:
            if token is None:
                return
            status = CycleStatus(error=(await parts.board.status(line)).error)  # where neither of the two comes about
            cycle = Cycle(parts, line, load_pack(line.task), token, trigger, request)
            try:
                with self._metrics.cycle(line.task):
                    report = await cycle.run()
                status = CycleStatus()
            except Exception as error:
                self._backoff[line].failed(time.monotonic(), request)
                status = CycleStatus(error=f"{type(error).__name__}: {error}")
                raise
            finally:
                self._metrics.stages(line.task, cycle.took)
                await parts.board.set_status(line, status)
            self._backoff[line].succeeded()
        if request is not None and report is None:
            await parts.board.withdraw(line, request)
        if report is not None:
            self._metrics.verdicts(line.task, verdicts(await parts.store.history(line), report.cycle))
        if report is not None and report.activated is not None:
            self._metrics.activated(line.task)

    async def watch(self, line: Line) -> None:
        """Judge a gated activation once by its first traces, and once by the audit; roll it back when one calls for it.

        While an automatic rollback cools down nothing is judged: it is as soon as that is over.
        """
        store = self._parts.store
        last = await store.last_change(line)
        if last is None or last.previous is None or not isinstance(last.authority, GatePass):
            return
        if await store.is_cooling(line):
            return
        reason = await self._reason_by_traces(line, last, last.previous)
        if reason is not None:
            await self._roll_back(line, last, reason, "spread")
            return
        change = await self._audited_change(line, last, last.previous)
        if change is None:
            return
        reason = audit_reason(change)
        if reason is None:
            await self._parts.board.settle_audit(line, last.id)
        else:
            await self._roll_back(line, last, reason, "audit")

    async def _reason_by_traces(self, line: Line, last: LineageEvent, previous: str) -> str | None:
        """Why an activation has to go by its first traces; None where it is settled, too young, or has none."""
        parts = self._parts
        if await parts.board.settled(line) == last.id:
            return None
        # Lineage and traces are streams of one Redis: their ids are times of one clock.
        count = parts.settings.watch_traces
        after = await _tail(self._watched, line, last.id, 0).read(parts.log, line, count, _under(line, last.digest))
        if len(after) < count:
            return None
        earlier = _under(line, previous)
        before = await parts.log.latest(line.task, 4 * count, until=last.id, wanted=earlier)
        reason = reason_to_roll_back(before, after, await self._trusted_mean(line, last))
        if reason is None:
            await parts.board.settle(line, last.id)
        return reason

    async def _audited_change(self, line: Line, last: LineageEvent, previous: str) -> Change | None:
        """What the audit says of an activation; None where nobody audits, it is settled or too young."""
        audits, window = self._parts.audits, self._parts.settings.audit_window
        if audits is None or await self._parts.board.audit_settled(line) == last.id:
            return None
        return by_activation(await audits.read(line), previous, last.digest, last.id, window)

    async def _roll_back(self, line: Line, last: LineageEvent, reason: str, kind: RollbackReason) -> None:
        cooldown_s = self._parts.settings.watch_cooldown_s
        try:
            await self._parts.store.rollback(
                line, by="watch", reason=reason, expected=last.digest, cooldown_s=cooldown_s
            )
        except Conflict as error:
            log.info("no rollback", extra={"task": line.task, "detail": error.detail})
        else:
            self._metrics.rolled_back(line.task, kind)
            log.warning("rolled back", extra={"task": line.task, "reason": reason})

    async def _trusted_mean(self, line: Line, activation: LineageEvent) -> float | None:
        """What trusted originals scored under a rubric when the gate let it pass."""
        history = await self._parts.store.history(line)
        gates = [e.gate for e in history if e.gate and (e.digest, e.cycle) == (activation.digest, activation.cycle)]
        return gates[-1].candidate.trusted_mean if gates else None


def _tail(tails: dict[Line, _Tail], line: Line, start: str, newest: int) -> _Tail:
    """The line's tail from `start`; one from elsewhere is given up."""
    tail = tails.get(line)
    if tail is None or tail.start != start:
        tail = tails[line] = _Tail(start, newest)
    return tail


def _under(line: Line, digest: str) -> Callable[[Trace], bool]:
    """Whether a trace is a line's evidence about the rubric of that digest."""
    return lambda t: is_evidence(t) and t.digest == digest and (t.lineage, t.scope) == (line.lineage, line.scope)
