"""One cycle, stage by stage: evidence, sample, propose, lint, gate, activate.

Source: Meta Policy Optimization, arXiv 2504.20157, algorithm 1; lint and gate are not in the paper.
Nothing here stops or slows a trainer but the judge's time, and shadow scoring yields that (I7).
Each stage's end is a checkpoint: a cycle whose worker died goes on behind its last finished stage.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from regrade.tasks.anchors import AnchorSet, is_more_than_a_line
from services.kit import keyspace as ks
from services.kit.errors import ServiceError
from services.kit.keyspace import Line
from services.kit.rubrics import Active, RubricStore, gate_event, verdict_event
from services.kit.traces import TraceLog
from services.meta_reward.alarms import ring
from services.meta_reward.anchors import AnchorStore
from services.meta_reward.board import Board, Request, alarms_json, baseline_json
from services.meta_reward.checkpoint import ORDER, Checkpoint, Checkpoints, Proposals, Proposed
from services.meta_reward.evidence import Baselines, by_group, first_steps, is_evidence, look, measure
from services.meta_reward.gate import Gate, GateError, Limits, best_measured, decisions_on
from services.meta_reward.lint import lint
from services.meta_reward.propose.base import Brief, Proposer
from services.meta_reward.sample import Pool, draw, pairs, sampled, seed_of
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.shadow import shadow_scorer
from services.meta_reward.surface import Row, tabulate

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a cycle works with; one of each per process."""

    store: RubricStore
    log: TraceLog
    board: Board
    checkpoints: Checkpoints
    anchors: AnchorStore
    client: RewardClient
    proposers: Sequence[Proposer]
    settings: MetaRewardSettings


class Left(NamedTuple):
    """What a finished stage leaves behind, written with its checkpoint: lineage events, and values by key."""

    events: Sequence[LineageEvent] = ()
    beside: Mapping[str, str] = MappingProxyType({})


class Cycle:
    """One run of the stages for one line, under a fencing token."""

    def __init__(
        self, parts: Parts, line: Line, pack: TaskPack, token: str, trigger: str, request: Request | None = None
    ) -> None:
        self._parts = parts
        self._line = line
        self._pack = pack
        self._token = token
        self._trigger = trigger
        self._request = request
        self._state: Checkpoint
        self._window: list[Trace]
        self._rows: list[Row] | None = None
        self._active: Rubric
        self._is_gated = parts.settings.strategy != "paper"
        self._anchors: AnchorSet

    @property
    def name(self) -> str:
        """The cycle's id; one that is gone on with keeps its own."""
        return self._state.cycle

    async def run(self) -> CycleReport | None:
        """Consume a window of traces and report on it; None when there is nothing to consume.

        Raises `Conflict` when the lease was lost: then nothing more was changed and the window stays unread.
        """
        pointer = await self._parts.store.active(self._line)
        self._anchors = await self._parts.anchors.of(self._line.task)
        if pointer is None or not (await self._go_on(pointer) or await self._begin(pointer)):
            return None
        work: dict[Stage, Callable[[], Awaitable[Left]]] = {
            Stage.EVIDENCE: self._evidence,
            Stage.SAMPLE: self._sample,
            Stage.PROPOSE: self._propose,
            Stage.LINT: self._lint,
            Stage.GATE: self._gate,
            Stage.ACTIVATE: self._activate,
        }
        for stage in ORDER:
            if not self._state.has_done(stage):
                await self._save(await work[stage](), done=stage, tries=1)
        return await self._end()

    async def _begin(self, pointer: Active) -> bool:
        """Take a window of new traces; false when there are none."""
        parts, line = self._parts, self._line
        after = await parts.log.cursor(line)
        self._window, end = await parts.log.read(line, after, parts.settings.max_window, is_evidence)
        if not self._window:
            return False
        await self._meet(pointer.digest)
        self._state = Checkpoint(
            cycle=f"{line.task}-{line.label}-{self._token}".replace(":", "-").replace("/", "-"),
            trigger=self._trigger,
            request=self._request,
            started=time.time(),
            window=(after, end),
            traces=len(self._window),
            active=pointer.digest,
        )
        await self._save()
        return True

    async def _go_on(self, pointer: Active) -> bool:
        """Take up the cycle that has begun and not ended; false when there is none, or it had to be abandoned."""
        state = await self._parts.checkpoints.load(self._line)
        if state is None:
            return False
        self._state = state
        after, end = state.window
        read = await self._parts.log.read(self._line, after, state.traces, is_evidence, until=end)
        self._window = read.traces
        reason = await self._outdated(pointer)
        if reason is None:
            await self._meet(state.active)
            await self._save(tries=state.tries + 1, resumed=state.resumed + 1)
            log.info("a cycle is gone on with", extra={"cycle": self.name, "done": state.done})
            return True
        log.warning("a cycle is abandoned", extra={"cycle": self.name, "reason": reason})
        self._trigger, self._request = state.trigger, self._request or state.request
        if state.evidence is not None:
            await self._end(abandoned=reason)
        return False

    async def _outdated(self, pointer: Active) -> str | None:
        """Why the cycle that has begun can't be gone on with, or None."""
        state, settings = self._state, self._parts.settings
        if await self._parts.store.activated_by(self._line, state.cycle) is not None:
            return None
        if state.window[0] != await self._parts.log.cursor(self._line) or len(self._window) != state.traces:
            return "its window is not there any more"
        if pointer.digest != state.active:
            return "another rubric is active by now"
        if time.time() - state.started > settings.resume_within_s:
            return f"it began more than {settings.resume_within_s:.0f} s ago"
        if state.tries >= settings.stage_tries:
            after = f"behind {state.done.value}" if state.done else "at its beginning"
            return f"{state.tries} tries at the stage {after} have failed"
        return None

    async def _meet(self, active: str) -> None:
        """A reward service that does not answer, or not to this key, costs no meta-judge call and leaves nothing."""
        parts, line = self._parts, self._line
        self._active = await parts.store.labelled(line, active)
        await parts.client.rubric(line.task, digest=active, lineage=line.lineage, scope=line.scope)

    async def _save(self, left: Left | None = None, **changes: Any) -> None:
        """Write the checkpoint, and what a stage leaves behind."""
        left = left or Left()
        self._state = self._state.model_copy(update=changes)
        await self._parts.checkpoints.save(self._line, self._token, self._state, left.events, left.beside)

    def _note(self, **found: Any) -> None:
        """Add to the state what a stage has found; it is written with the stage's checkpoint."""
        self._state = self._state.model_copy(update=found)

    async def _at(self, stage: Stage, detail: str) -> None:
        status = CycleStatus(cycle=self.name, stage=stage, detail=detail, started=self._state.started)
        await self._parts.board.set_stage(self._line, status)

    async def _evidence(self) -> Left:
        """Measure the window against the runs' first steps, and see which alarms that raises or lowers."""
        await self._at(Stage.EVIDENCE, f"{len(self._window)} traces")
        board, line = self._parts.board, self._line
        baselines = await self._baselines()
        raised = await board.alarms(line)
        measured = await asyncio.to_thread(look, self._window, baselines)
        self._rows = list(measured.rows)
        alarms = ring(measured, raised, self._state.window[1])
        self._note(evidence=measure(measured, baselines, self._state.window, rubric=self._active, alarms=alarms))
        kept = {ks.baseline_key(line, run): baseline_json(first) for run, first in baselines.items()}
        return Left(beside={ks.alarms_key(line): alarms_json(alarms)} | kept)

    async def _baselines(self) -> Baselines:
        """The first traces of the window's runs; of a run that has just begun, those in the window."""
        known = await self._parts.board.baselines(self._line, {trace.run for trace in self._window})
        return first_steps(known, self._window)

    async def _sample(self) -> Left:
        settings = self._parts.settings
        await self._at(Stage.SAMPLE, f"{settings.samples} of {len(self._window)} traces")
        if self._rows is None:
            self._rows = await asyncio.to_thread(tabulate, self._window)
        pool = Pool(self._window, self._rows)
        seed = seed_of(f"{self._line.task}/{self._line.label}", self.name)
        self._note(sample=draw(pool, settings.samples, settings.drawn_by, seed))
        return Left()

    def _brief(self) -> Brief:
        evidence, sample = self._state.evidence, self._state.sample
        if evidence is None or sample is None:
            raise ValueError("a cycle proposes behind its evidence and its sample")
        return Brief(
            cycle=self.name,
            meta_role=self._pack.meta_role,
            visible=[(original.prompt, original.completion) for original in self._anchors.visible],
            active=self._active,
            evidence=evidence,
            window=self._window,
            sample=sampled(sample, self._window),
            pairs=pairs(sample, self._window),
            labelled=self._anchors.visible_pairs,
            core={criterion.id for criterion in self._pack.starting_rubric.criteria},
            max_llm_criteria=self._parts.settings.max_llm_criteria,
        )

    async def _propose(self) -> Left:
        """Ask each proposer; what one has answered is kept before the next one is asked."""
        brief = self._brief()
        for proposer in self._parts.proposers:
            if proposer.name not in self._state.proposals:
                await self._at(Stage.PROPOSE, proposer.name)
                answer = Proposals.of(await proposer.propose(brief, self._at))
                await self._save(proposals=self._state.proposals | {proposer.name: answer})
        return Left()

    async def _lint(self) -> Left:
        """Keep those candidates that may go to the gate; every one proposed is on record, refused ones with reasons.

        Strategy `paper` refuses none.
        """
        proposed = self._state.proposed
        await self._at(Stage.LINT, f"{len(proposed)} candidates")
        most = self._parts.settings.max_candidates
        shown = [text for trace in self._brief().sample for text in (as_text(trace.prompt), as_text(trace.completion))]
        rolled_back = await self._parts.store.rolled_back(self._line)
        clean: list[Proposed] = []
        failed = {name: answer.failed for name, answer in self._state.proposals.items() if answer.failed}
        events = [self._event(EventKind.FAILED, self._active.digest, *told) for told in failed.items()]
        for candidate in proposed:
            rubric = candidate.rubric
            await self._parts.store.put(self._line.task, rubric)
            events.append(self._event(EventKind.PROPOSED, rubric.digest, candidate.proposer, rubric.rationale))
            reasons = lint(rubric, self._active, shown, rolled_back, self._pack.language) if self._is_gated else []
            if len(clean) == most:
                reasons.append(f"budget: {most} candidates a cycle")
            if reasons:
                events.append(self._event(EventKind.REJECTED, rubric.digest, "lint", "; ".join(reasons)))
            else:
                clean.append(candidate)
        self._note(clean=tuple(clean))
        return Left(events)

    def _event(self, kind: EventKind, digest: str, by: str, reason: str) -> LineageEvent:
        return verdict_event(kind, digest, by=by, reason=reason, cycle=self.name)

    async def _gate(self) -> Left:
        """Measure what is affordable; every verdict is on record. Strategy `paper` has no gate."""
        if not self._is_gated:
            return Left()
        affordable, events = self._within_budget()
        if not affordable:
            return Left(events)
        await self._at(Stage.GATE, f"{len(affordable)} candidates on {len(self._anchors.cases)} anchors")
        settings, line = self._parts.settings, self._line
        first = (await self._baselines())[self._window[-1].run]
        early = by_group([t for t in first if not t.flags and is_more_than_a_line(as_text(t.completion))])
        score = shadow_scorer(self._parts.client, settings.gate_batch)
        history = await self._parts.store.history(line)
        decision = 1 + decisions_on(history, self._anchors.version, self._active.digest)
        limits = Limits(settings.gate_alpha, settings.gate_margin, decision, settings.gate_calls)
        gate = Gate(score, line.task, self._anchors, limits, early)
        earlier = await self._best_earlier(history)
        try:
            found = await gate.decide(self.name, [c.candidate() for c in affordable], self._active, earlier)
        except GateError as error:
            refused = f"not measured: {error}"
            self._note(notes=(f"gate: {error}",))
            return Left(
                [*events, *(self._event(EventKind.REJECTED, c.rubric.digest, "gate", refused) for c in affordable)]
            )
        self._note(gates=tuple(found.reports))
        left_out = [self._event(EventKind.REJECTED, c.rubric.digest, "gate", why) for c, why in found.unmeasured]
        return Left([*events, *left_out, *map(gate_event, found.reports)])

    def _within_budget(self) -> tuple[list[Proposed], list[LineageEvent]]:
        """Those candidates that cost no more judge calls an item than allowed; known before anything is scored."""
        most = self._parts.settings.max_llm_criteria
        affordable = []
        events = []
        for candidate in self._state.clean:
            calls = len(candidate.rubric.llm_criteria)
            if calls <= most:
                affordable.append(candidate)
            else:
                reason = f"budget: {calls} judge calls an item, {most} at most"
                events.append(self._event(EventKind.REJECTED, candidate.rubric.digest, "gate", reason))
        return affordable, events

    async def _best_earlier(self, history: Sequence[LineageEvent]) -> Rubric | None:
        """Of the rubrics active before, the one that ordered anchors best."""
        store = self._parts.store
        earlier = set((await store.versions(self._line)).values()) - {self._active.digest}
        gates = [event.gate for event in history if event.gate is not None]
        best = best_measured(gates, earlier)
        return None if best is None else await store.labelled(self._line, best)

    async def _activate(self) -> Left:
        """Activate what has been chosen, unless this cycle has done so already."""
        digest, store, line = self._chosen(), self._parts.store, self._line
        if digest is None:
            return Left()
        await self._at(Stage.ACTIVATE, digest[:12])
        done = await store.activated_by(line, self.name)
        if done is None:
            authority = GatePass(cycle=self.name) if self._is_gated else _without_a_gate(self.name)
            try:
                await store.activate(line, digest, expected=self._active.digest, authority=authority, token=self._token)
            except ServiceError as error:
                # The answer of a first try may have been lost: then the second one finds the rubric active.
                if await store.activated_by(line, self.name) is None:
                    return Left([self._event(EventKind.REJECTED, digest, "activation", error.detail)])
        self._note(activated=done or digest)
        return Left()

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
        await self._parts.board.finish(self._line, self._token, state.window[1], report, state.request)
        if not abandoned:
            about = {"cycle": state.cycle, "candidates": report.candidates, "activated": report.activated}
            log.info("cycle finished", extra=about)
        return report


def _without_a_gate(cycle: str) -> Override:
    """The authority of strategy `paper`: whoever has set it up has chosen to do without a gate (I6)."""
    reason = "strategy 'paper' was chosen for this service: a blind merge, without lint and gate"
    return Override(by="strategy paper", reason=reason, cycle=cycle)
