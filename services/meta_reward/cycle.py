"""One cycle, stage by stage: evidence, sample, propose, lint, gate, activate.

Source: Meta Policy Optimization, arXiv 2504.20157, algorithm 1; lint and gate are not in the paper.
Nothing here stops or slows a trainer but the judge's time, and shadow scoring yields that (I7).
Each stage's end is a checkpoint: a cycle whose worker died goes on behind its last finished stage.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from regrade import RewardClient
from regrade.contracts import (
    CycleReport,
    CycleStatus,
    EventKind,
    GatePass,
    LineageEvent,
    Override,
    Rubric,
    Stage,
    Trace,
    as_text,
)
from regrade.tasks import TaskPack
from regrade.tasks.anchors import AnchorSet
from services.kit.errors import ServiceError
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, RubricStore, candidate_event
from services.kit.store.trace_log import TraceLog
from services.meta_reward.evidence.alarms import update_alarms
from services.meta_reward.evidence.audit import AuditEntries, audit_figures, change_since_activation, with_score
from services.meta_reward.evidence.sampling import SamplingPool, draw_sample, sample_seed, sampled_pairs, sampled_traces
from services.meta_reward.evidence.text_features import TextFeatures, extract_features
from services.meta_reward.evidence.window import (
    Baselines,
    build_evidence,
    extend_baselines,
    is_evidence,
    summarise_window,
)
from services.meta_reward.gate.calibration import without_offset
from services.meta_reward.gate.early_originals import missing_originals, select_early
from services.meta_reward.gate.gate import count_decisions
from services.meta_reward.gate.lint import lint
from services.meta_reward.gate.stage import GateStage, rolled_back_reasons
from services.meta_reward.monitoring.auditor import AuditStore
from services.meta_reward.propose.base import ProposalContext, Proposer, run_proposer
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.stores.checkpoints import ORDER, Checkpoint, CheckpointStore
from services.meta_reward.stores.status import CycleRequest, StatusStore, alarms_json, baseline_json
from services.meta_reward.types import Candidate

log = logging.getLogger(__name__)


class CycleDeps(NamedTuple):
    """What a cycle works with; one of each per process."""

    store: RubricStore
    log: TraceLog
    status_store: StatusStore
    checkpoints: CheckpointStore
    anchors: AnchorStore
    client: RewardClient
    proposers: Sequence[Proposer]
    settings: MetaRewardSettings
    audits: AuditStore | None = None
    """None where nothing is audited."""


class StageOutput(NamedTuple):
    """What a finished stage leaves behind, written with its checkpoint: lineage events, and values by key."""

    events: Sequence[LineageEvent] = ()
    values: Mapping[str, str] = MappingProxyType({})


class Cycle:
    """One run of the stages for one line, under a fencing token."""

    def __init__(
        self,
        deps: CycleDeps,
        lineage: LineageKey,
        pack: TaskPack,
        token: str,
        trigger: str,
        request: CycleRequest | None = None,
    ) -> None:
        self._deps = deps
        self._lineage = lineage
        self._pack = pack
        self._token = token
        self._trigger = trigger
        self._request = request
        self._state: Checkpoint
        self._window: list[Trace]
        self._rows: list[TextFeatures] | None = None
        self._active: Rubric
        self._audits: AuditEntries = ()
        self._is_gated = deps.settings.strategy != "paper"
        self.stage_seconds: dict[str, float] = {}
        """Seconds by stage, of this try."""
        self._anchors: AnchorSet

    @property
    def name(self) -> str:
        """The cycle's id; one that is gone on with keeps its own."""
        return self._state.cycle

    async def run(self) -> CycleReport | None:
        """Consume a window of traces and report on it; None when there is nothing to consume.

        Raises `Conflict` when the lease was lost: then nothing more was changed and the window stays unread.
        """
        pointer = await self._deps.store.active(self._lineage)
        self._anchors = await self._deps.anchors.read(self._lineage)
        if self._deps.audits is not None:
            self._audits = await self._deps.audits.read(self._lineage)
        if pointer is None or not (await self._resume(pointer) or await self._begin(pointer)):
            return None
        work: dict[Stage, Callable[[], Awaitable[StageOutput]]] = {
            Stage.EVIDENCE: self._evidence,
            Stage.SAMPLE: self._sample,
            Stage.PROPOSE: self._propose,
            Stage.LINT: self._lint,
            Stage.GATE: self._gate,
            Stage.ACTIVATE: self._activate,
        }
        for stage in ORDER:
            if not self._state.has_done(stage):
                began = time.monotonic()
                await self._save(await work[stage](), done=stage, tries=1)
                self.stage_seconds[stage] = time.monotonic() - began
        return await self._end()

    async def _begin(self, pointer: RubricPointer) -> bool:
        """Take a window of new traces; false when there are none."""
        deps, lineage = self._deps, self._lineage
        after = await deps.log.cursor(lineage)
        self._window, end = await deps.log.read(lineage, after, deps.settings.max_window, is_evidence)
        if not self._window:
            return False
        await self._preflight(pointer.digest)
        self._state = Checkpoint(
            cycle=f"{lineage.task}-{lineage.label}-{self._token}".replace(":", "-").replace("/", "-"),
            trigger=self._trigger,
            request=self._request,
            started=time.time(),
            window=(after, end),
            traces=len(self._window),
            active=pointer.digest,
        )
        await self._save()
        return True

    async def _resume(self, pointer: RubricPointer) -> bool:
        """Take up the cycle that has begun and not ended; false when there is none, or it had to be abandoned."""
        state = await self._deps.checkpoints.load(self._lineage)
        if state is None:
            return False
        self._state = state
        after, end = state.window
        read = await self._deps.log.read(self._lineage, after, state.traces, is_evidence, until=end)
        self._window = read.traces
        reason = await self._abandon_reason(pointer)
        if reason is None:
            await self._preflight(state.active)
            await self._save(tries=state.tries + 1, resumed=state.resumed + 1)
            log.info("a cycle is gone on with", extra={"cycle": self.name, "done": state.done})
            return True
        log.warning("a cycle is abandoned", extra={"cycle": self.name, "reason": reason})
        self._trigger, self._request = state.trigger, self._request or state.request
        if state.evidence is not None:
            await self._end(abandoned=reason)
        return False

    async def _abandon_reason(self, pointer: RubricPointer) -> str | None:
        """Why the cycle that has begun can't be gone on with, or None."""
        state, settings = self._state, self._deps.settings
        if await self._deps.store.activated_by(self._lineage, state.cycle) is not None:
            return None
        if state.window[0] != await self._deps.log.cursor(self._lineage) or len(self._window) != state.traces:
            return "its window is not there any more"
        if pointer.digest != state.active:
            return "another rubric is active by now"
        if time.time() - state.started > settings.resume_within_s:
            return f"it began more than {settings.resume_within_s:.0f} s ago"
        if state.tries >= settings.stage_tries:
            after = f"behind {state.done.value}" if state.done else "at its beginning"
            return f"{state.tries} tries at the stage {after} have failed"
        return None

    async def _preflight(self, active: str) -> None:
        """A reward service that does not answer, or not to this key, costs no meta-judge call and leaves nothing."""
        deps, lineage = self._deps, self._lineage
        self._active = await deps.store.labelled(lineage, active)
        await deps.client.rubric(lineage.task, digest=active, lineage=lineage.name, scope=lineage.scope)

    async def _save(self, output: StageOutput | None = None, **changes: Any) -> None:
        """Write the checkpoint, and what a stage leaves behind."""
        output = output or StageOutput()
        self._state = self._state.model_copy(update=changes)
        await self._deps.checkpoints.save(self._lineage, self._token, self._state, output.events, output.values)

    def _note(self, **found: Any) -> None:
        """Add to the state what a stage has found; it is written with the stage's checkpoint."""
        self._state = self._state.model_copy(update=found)

    async def _report_stage(self, stage: Stage, detail: str) -> None:
        status = CycleStatus(cycle=self.name, stage=stage, detail=detail, started=self._state.started)
        await self._deps.status_store.set_stage(self._lineage, status)

    async def _evidence(self) -> StageOutput:
        """Measure the window against the runs' first steps, and see which alarms that raises or lowers."""
        await self._report_stage(Stage.EVIDENCE, f"{len(self._window)} traces")
        status_store, lineage = self._deps.status_store, self._lineage
        baselines = await self._baselines()
        raised, compared = await status_store.alarms(lineage), self._deps.settings.audit_window
        change = change_since_activation(self._audits, self._active.digest, compared)
        measured = await asyncio.to_thread(summarise_window, self._window, baselines, audit=change)
        self._rows = list(measured.rows)
        window = self._state.window
        alarms = update_alarms(measured, raised, window[1])
        audit = audit_figures(self._audits, window, self._active.digest, compared) if self._deps.audits else None
        found = build_evidence(measured, baselines, window, rubric=self._active, alarms=alarms, audit=audit)
        self._note(evidence=found)
        if self._is_gated:
            await self._grow_anchors(baselines)
        kept = {keys.baseline_key(lineage, run): baseline_json(first) for run, first in baselines.items()}
        return StageOutput(values={keys.alarms_key(lineage): alarms_json(alarms)} | kept)

    async def _grow_anchors(self, baselines: Baselines) -> None:
        """Take up early completions as originals where the next decision would have too few; never most of a window."""
        settings, lineage = self._deps.settings, self._lineage
        history, anchors = await self._deps.store.history(lineage), self._anchors
        decision = 1 + count_decisions(history, anchors.base, self._active.digest, anchors.base_originals)
        missing = missing_originals(anchors, settings.gate_alpha, decision, settings.max_candidates)
        room = min(missing, settings.gate_early - anchors.early_originals, len(self._window) // 4)
        if room > 0:
            first = [trace for traces in baselines.values() for trace in traces]
            found = await asyncio.to_thread(select_early, first, anchors, room)
            self._anchors = await self._deps.anchors.add_early(lineage, found)

    async def _baselines(self) -> Baselines:
        """The first traces of the window's runs; of a run that has just begun, those in the window."""
        known = await self._deps.status_store.baselines(self._lineage, {trace.run for trace in self._window})
        return extend_baselines(known, self._window)

    async def _sample(self) -> StageOutput:
        settings = self._deps.settings
        await self._report_stage(Stage.SAMPLE, f"{settings.samples} of {len(self._window)} traces")
        if self._rows is None:
            self._rows = await asyncio.to_thread(extract_features, self._window)
        audit = {one.trace_id: one.audit for _, one in with_score(self._audits) if one.audit is not None}
        unseen = await self._deps.anchors.early_ids(self._lineage)
        kept = [(t, row) for t, row in zip(self._window, self._rows, strict=True) if t.trace_id not in unseen]
        pool = SamplingPool([trace for trace, _ in kept], [row for _, row in kept], audit)
        seed = sample_seed(f"{self._lineage.task}/{self._lineage.label}", self.name)
        self._note(sample=draw_sample(pool, settings.samples, settings.drawn_by, seed))
        return StageOutput()

    def _brief(self) -> ProposalContext:
        evidence, sample = self._state.evidence, self._state.sample
        if evidence is None or sample is None:
            raise ValueError("a cycle proposes behind its evidence and its sample")
        return ProposalContext(
            cycle=self.name,
            meta_role=self._pack.meta_role,
            visible=[(original.prompt, original.completion) for original in self._anchors.visible],
            active=self._active,
            evidence=evidence,
            window=self._window,
            sample=sampled_traces(sample, self._window),
            pairs=sampled_pairs(sample, self._window),
            labelled=self._anchors.visible_pairs,
            core={criterion.id for criterion in self._pack.starting_rubric.criteria},
            max_llm_criteria=self._deps.settings.max_llm_criteria,
            guided=self._pack.kind == "depth" and self._lineage.scope is not None,
        )

    async def _propose(self) -> StageOutput:
        """Ask each proposer; what one has answered is kept before the next one is asked."""
        brief = self._brief()
        for proposer in self._deps.proposers:
            if proposer.name not in self._state.proposals:
                await self._report_stage(Stage.PROPOSE, proposer.name)
                answer = await run_proposer(proposer, brief, self._report_stage)
                await self._save(proposals=self._state.proposals | {proposer.name: answer})
        return StageOutput()

    async def _lint(self) -> StageOutput:
        """Keep those candidates that may go to the gate; every one proposed is on record, refused ones with reasons.

        Strategy `paper` refuses none.
        """
        proposed = self._state.proposed
        await self._report_stage(Stage.LINT, f"{len(proposed)} candidates")
        most = self._deps.settings.max_candidates
        shown = [text for trace in self._brief().sample for text in (as_text(trace.prompt), as_text(trace.completion))]
        rolled_back = await rolled_back_reasons(self._deps.store, self._lineage)
        active = without_offset(self._active)
        clean: list[Candidate] = []
        failed = {name: answer.failed for name, answer in self._state.proposals.items() if answer.failed}
        events = [self._event(EventKind.FAILED, self._active.digest, *told) for told in failed.items()]
        for candidate in proposed:
            rubric = candidate.rubric
            await self._deps.store.put(self._lineage.task, rubric)
            events.append(self._event(EventKind.PROPOSED, rubric.digest, candidate.proposer, rubric.rationale))
            plain = without_offset(rubric)
            reasons = lint(plain, active, shown, rolled_back, self._pack.language) if self._is_gated else []
            if len(clean) == most:
                reasons.append(f"budget: {most} candidates a cycle")
            if reasons:
                events.append(self._event(EventKind.REJECTED, rubric.digest, "lint", "; ".join(reasons)))
            else:
                clean.append(candidate)
        self._note(clean=tuple(clean))
        return StageOutput(events)

    def _event(self, kind: EventKind, digest: str, by: str, reason: str) -> LineageEvent:
        return candidate_event(kind, digest, by=by, reason=reason, cycle=self.name)

    async def _gate(self) -> StageOutput:
        """Measure what is affordable; every verdict is on record. Strategy `paper` has no gate."""
        if not self._is_gated:
            return StageOutput()
        candidates, deps = self._state.clean, self._deps
        if not candidates:
            return StageOutput()
        gating = GateStage(
            store=deps.store,
            client=deps.client,
            settings=deps.settings,
            lineage=self._lineage,
            cycle=self.name,
            active=self._active,
            anchors=self._anchors,
            tell=partial(self._report_stage, Stage.GATE),
        )
        found = await gating.decide(candidates, (await self._baselines())[self._window[-1].run])
        self._note(gates=found.reports, notes=found.notes)
        return StageOutput(found.events)

    async def _activate(self) -> StageOutput:
        """Activate what has been chosen, unless this cycle has done so already."""
        digest, store, lineage = self._chosen(), self._deps.store, self._lineage
        if digest is None:
            return StageOutput()
        await self._report_stage(Stage.ACTIVATE, digest[:12])
        done = await store.activated_by(lineage, self.name)
        if done is None:
            authority = GatePass(cycle=self.name) if self._is_gated else _without_a_gate(self.name)
            try:
                await store.activate(
                    lineage, digest, expected=self._active.digest, authority=authority, token=self._token
                )
            except ServiceError as error:
                # The answer of a first try may have been lost: then the second one finds the rubric active.
                if await store.activated_by(lineage, self.name) is None:
                    return StageOutput([self._event(EventKind.REJECTED, digest, "activation", error.detail)])
        self._note(activated=done or digest)
        return StageOutput()

    def _chosen(self) -> str | None:
        """The passing candidate with the largest certain gain; under strategy `paper` the first there is."""
        if not self._is_gated:
            return next((c.rubric.digest for c in self._state.clean if c.rubric.digest != self._active.digest), None)
        passed = [report for report in self._state.gates if report.passed]
        best = max(passed, key=lambda report: report.order_gain_lower + report.attack_gain_lower, default=None)
        return None if best is None else best.candidate.digest

    async def _end(self, abandoned: str | None = None) -> CycleReport:
        """Put the cycle on record and let go of it."""
        state = self._state
        if state.evidence is None:
            raise ValueError("a cycle ends behind its evidence")
        report = CycleReport(
            cycle=state.cycle,
            trigger=state.trigger,
            started=state.started,
            finished=time.time(),
            evidence=state.evidence,
            candidates=len(state.clean),
            activated=state.activated,
            notes=(*(note for answer in state.proposals.values() for note in answer.notes), *state.notes),
            sample=state.sample,
            abandoned=abandoned,
            resumed=state.resumed,
        )
        await self._deps.status_store.finish(self._lineage, self._token, state.window[1], report, state.request)
        if not abandoned:
            about = {"cycle": state.cycle, "candidates": report.candidates, "activated": report.activated}
            log.info("cycle finished", extra=about)
        return report


def _without_a_gate(cycle: str) -> Override:
    """The authority of strategy `paper`: whoever has set it up has chosen to do without a gate (I6)."""
    reason = "strategy 'paper' was chosen for this service: a blind merge, without lint and gate"
    return Override(by="strategy paper", reason=reason, cycle=cycle)
