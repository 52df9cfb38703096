"""The frame of a cycle: begin or resume it under a lease, save its stages, end or abandon it.

Every stage ends with a checkpoint. When a worker dies, the next one resumes the cycle after its last completed stage.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from regrade.contracts import CycleReport, CycleStatus, EventKind, LineageEvent, Rubric, Stage, Trace
from regrade.tasks import TaskPack
from regrade.tasks.anchors import AnchorSet
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, candidate_event
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.evidence.audit import AuditEntries
from services.meta_reward.evidence.text_features import TextFeatures
from services.meta_reward.evidence.window import is_evidence
from services.meta_reward.stores.checkpoints import Checkpoint
from services.meta_reward.stores.status import CycleRequest

log = logging.getLogger(__name__)

RESUME_WITHIN_S = 3_600.0
"""Age at which a cycle is abandoned instead of resumed: the policy has moved on, and its window is old."""
STAGE_TRIES = 4
"""Tries at one stage before the cycle is abandoned. With the worker's back-off four tries take some ten seconds, enough
for a restart of a dependency; a new cycle then reads the same window."""


class PendingTraces(NamedTuple):
    """Traces read behind the cursor `after`, up to the id `end`."""

    after: str
    traces: Sequence[Trace]
    end: str


class StageOutput(NamedTuple):
    """What a stage writes with its checkpoint: lineage events, and values by Redis key."""

    events: Sequence[LineageEvent] = ()
    values: Mapping[str, str] = MappingProxyType({})


@dataclass
class CycleRun:
    """One cycle of one lineage under a fencing token: what it reads, its state, and its checkpoints."""

    deps: ServiceDeps
    lineage: LineageKey
    pack: TaskPack
    token: str
    trigger: str
    request: CycleRequest | None = None
    pending: PendingTraces | None = None
    """Traces that the caller has read behind the lineage's cursor; without them the run reads the log."""
    state: Checkpoint = field(init=False)
    window: Sequence[Trace] = field(init=False)
    active: Rubric = field(init=False)
    anchors: AnchorSet = field(init=False)
    features: Sequence[TextFeatures] | None = None
    """Text features of the window's traces, once extracted."""
    audits: AuditEntries = ()
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each stage completed by this process."""

    @property
    def has_gate(self) -> bool:
        """Whether candidates pass lint and gate; strategy `paper` has neither."""
        return self.deps.settings.strategy != "paper"

    async def open(self) -> bool:
        """Resume the lineage's unfinished cycle, or begin a new one. False when there is no rubric or no new trace.

        A reward service that is down or refuses the key raises here, before any meta-judge call is paid for.
        """
        pointer = await self.deps.store.active(self.lineage)
        if pointer is None:
            return False
        self.anchors = await self.deps.anchors.read(self.lineage)
        if self.deps.audits is not None:
            self.audits = await self.deps.audits.read(self.lineage)
        return await self._resume(pointer) or await self._begin(pointer)

    async def _begin(self, pointer: RubricPointer) -> bool:
        lineage, after = self.lineage, await self.deps.log.cursor(self.lineage)
        if self.pending is None or self.pending.after != after:
            read = await self.deps.log.read(lineage, after, self.deps.settings.max_window, is_evidence)
            self.pending = PendingTraces(after, read.traces, read.end)
        self.window = self.pending.traces
        if not self.window:
            return False
        await self._preflight(pointer.digest)
        self.state = Checkpoint(
            cycle=f"{lineage.task}-{lineage.label}-{self.token.partition('.')[0]}".replace(":", "-").replace("/", "-"),
            trigger=self.trigger,
            request=self.request,
            started=time.time(),
            window=(after, self.pending.end),
            traces=len(self.window),
            active=pointer.digest,
        )
        await self.save()
        return True

    async def _resume(self, pointer: RubricPointer) -> bool:
        state = await self.deps.checkpoints.load(self.lineage)
        if state is None:
            return False
        self.state = state
        after, end = state.window
        read = await self.deps.log.read(self.lineage, after, state.traces, is_evidence, until=end)
        self.window = read.traces
        reason = await self._abandon_reason(pointer)
        if reason is None:
            await self._preflight(state.active)
            state.tries += 1
            state.resumed += 1
            await self.save()
            log.info("a cycle is resumed", extra={"cycle": state.cycle, "done": state.done})
            return True
        log.warning("a cycle is abandoned", extra={"cycle": state.cycle, "reason": reason})
        self.trigger, self.request = state.trigger, self.request or state.request
        if state.evidence is not None:
            await self.finish(abandoned=reason)
        return False

    async def _abandon_reason(self, pointer: RubricPointer) -> str | None:
        """Why the unfinished cycle can't be resumed, or None. A cycle that has activated its rubric always can."""
        state = self.state
        if await self.deps.store.activated_by(self.lineage, state.cycle) is not None:
            return None
        if state.window[0] != await self.deps.log.cursor(self.lineage) or len(self.window) != state.traces:
            return "its window is not in Redis any more"
        if pointer.digest != state.active:
            return "another rubric has been activated"
        if time.time() - state.started > RESUME_WITHIN_S:
            return f"it began more than {RESUME_WITHIN_S:.0f} s ago"
        if state.tries >= STAGE_TRIES:
            stage = f"the stage after {state.done.value}" if state.done else "the first stage"
            return f"{state.tries} tries at {stage} have failed"
        return None

    async def _preflight(self, digest: str) -> None:
        lineage = self.lineage
        self.active = await self.deps.store.labelled(lineage, digest)
        await self.deps.client.rubric(lineage.task, digest=digest, lineage=lineage.name, scope=lineage.scope)

    async def save(self, output: StageOutput | None = None) -> None:
        """Write the state, and a stage's output with it. Raises `Conflict` when the lease was lost."""
        output = output or StageOutput()
        await self.deps.checkpoints.save(self.lineage, self.token, self.state, output.events, output.values)

    async def complete(self, stage: Stage, output: StageOutput) -> None:
        """Save a completed stage."""
        self.state.done, self.state.tries = stage, 1
        await self.save(output)

    async def report_stage(self, stage: Stage, detail: str) -> None:
        """Show in the lineage's status what the cycle is doing."""
        status = CycleStatus(cycle=self.state.cycle, stage=stage, detail=detail, started=self.state.started)
        await self.deps.status_store.set_stage(self.lineage, status)

    def event(self, kind: EventKind, digest: str, by: str, reason: str) -> LineageEvent:
        """A lineage event of this cycle."""
        return candidate_event(kind, digest, by=by, reason=reason, cycle=self.state.cycle)

    async def finish(self, abandoned: str | None = None) -> CycleReport:
        """End the cycle: store its report, advance the cursor. `abandoned` is the reason it could not be resumed."""
        state = self.state
        if state.evidence is None:
            raise ValueError("a cycle without evidence can't be reported")
        report = CycleReport(
            cycle=state.cycle,
            trigger=state.trigger,
            started=state.started,
            finished=time.time(),
            evidence=state.evidence,
            candidates=len(state.clean),
            activated=state.activated,
            notes=(*(note for proposal in state.proposals.values() for note in proposal.notes), *state.notes),
            sample=state.sample,
            abandoned=abandoned,
            resumed=state.resumed,
        )
        await self.deps.status_store.finish(self.lineage, self.token, state.window[1], report, state.request)
        if not abandoned:
            fields = {"cycle": state.cycle, "candidates": report.candidates, "activated": report.activated}
            log.info("cycle finished", extra=fields)
        return report
