"""One cycle, stage by stage: evidence, sample, propose, lint, gate, activate.

Source: Meta Policy Optimization, arXiv 2504.20157, algorithm 1; lint and gate are not in the paper.
Nothing here stops or slows a trainer but the judge's time, and shadow scoring yields that (I7).
"""

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from regrade import RewardClient
from regrade.contracts import (
    CycleReport,
    CycleStatus,
    EventKind,
    GatePass,
    GateReport,
    Rubric,
    Stage,
    Trace,
    as_text,
)
from regrade.tasks import TaskPack
from regrade.tasks.anchors import AnchorSet, build_anchors
from services.kit.errors import ServiceError
from services.kit.keyspace import Line
from services.kit.rubrics import RubricStore
from services.kit.traces import TraceLog
from services.meta_reward.board import Board
from services.meta_reward.evidence import by_group, is_evidence, measure
from services.meta_reward.gate import Candidate, Gate, GateError, Limits, best_measured
from services.meta_reward.lint import lint
from services.meta_reward.propose.base import Brief, Proposer
from services.meta_reward.sample import choose
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.shadow import shadow_scorer

log = logging.getLogger(__name__)

_BASELINE_TRACES = 64
_BASELINE_PAGES = 32


class Parts(NamedTuple):
    """What a cycle works with; one of each per process."""

    store: RubricStore
    log: TraceLog
    board: Board
    client: RewardClient
    proposers: Sequence[Proposer]
    settings: MetaRewardSettings


class Cycle:
    """One run of the stages for one line, under a fencing token."""

    def __init__(self, parts: Parts, line: Line, pack: TaskPack, token: str, trigger: str) -> None:
        self._parts = parts
        self._line = line
        self._pack = pack
        self._token = token
        self._trigger = trigger
        self._started = time.time()
        self.name = f"{line.task}-{line.label}-{token}".replace(":", "-").replace("/", "-")

    async def run(self) -> CycleReport | None:
        """Consume a window of traces and report on it; None when there is nothing to consume.

        Raises `Conflict` when the lease was lost: then nothing was activated and the window stays unread.
        """
        parts, line = self._parts, self._line
        after = await parts.log.cursor(line)
        traces, end = await parts.log.read(line, after, parts.settings.max_window, is_evidence)
        pointer = await parts.store.active(line)
        if not traces or pointer is None:
            return None
        active = await parts.store.labelled(line, pointer.digest)
        # A reward service that does not answer, or not to this key, costs no meta-judge call and leaves no proposal.
        await parts.client.rubric(line.task, digest=pointer.digest, lineage=line.lineage, scope=line.scope)
        await self._at(Stage.EVIDENCE, f"{len(traces)} traces")
        baseline = await self._baseline(traces, after)
        evidence = measure(traces, baseline, (after, end))
        await self._at(Stage.SAMPLE, f"{parts.settings.samples} of {len(traces)} traces")
        anchors = build_anchors(self._pack, parts.settings.gate_originals)
        brief = Brief(
            cycle=self.name,
            meta_role=self._pack.meta_role,
            visible=[(original.prompt, original.completion) for original in anchors.visible],
            active=active,
            evidence=evidence,
            window=traces,
            sample=choose(traces, parts.settings.samples, seed=self.name),
        )
        proposed, notes = await self._propose(brief)
        await self._at(Stage.LINT, f"{len(proposed)} candidates")
        candidates = await self._lint(proposed, brief)
        reports, gate_notes = await self._gate(candidates, anchors, active, baseline)
        activated = await self._activate(reports, active)
        report = CycleReport(
            cycle=self.name,
            trigger=self._trigger,
            started=self._started,
            finished=time.time(),
            evidence=evidence,
            candidates=len(candidates),
            activated=activated,
            notes=(*notes, *gate_notes),
        )
        await parts.board.finish(line, self._token, end, report)
        log.info("cycle finished", extra={"cycle": self.name, "candidates": len(candidates), "activated": activated})
        return report

    async def _at(self, stage: Stage, detail: str) -> None:
        status = CycleStatus(cycle=self.name, stage=stage, detail=detail, started=self._started)
        await self._parts.board.set_stage(self._line, status)

    async def _baseline(self, traces: Sequence[Trace], after: str) -> list[Trace]:
        """The first traces of the window's newest run, out of 16,384 entries from where a cycle first saw that run."""
        run = traces[-1].run
        starts = await self._parts.board.run_starts(self._line, {trace.run for trace in traces}, after)
        first = await self._parts.log.read(
            self._line,
            starts[run],
            _BASELINE_TRACES,
            lambda trace: is_evidence(trace) and trace.run == run,
            pages=_BASELINE_PAGES,
        )
        return first.traces

    async def _propose(self, brief: Brief) -> tuple[list[Candidate], list[str]]:
        candidates: list[Candidate] = []
        notes: list[str] = []
        for proposer in self._parts.proposers:
            proposal = await proposer.propose(brief, self._at)
            candidates.extend(proposal.candidates)
            notes.extend(proposal.notes)
        return candidates, notes

    async def _lint(self, proposed: Sequence[Candidate], brief: Brief) -> list[Candidate]:
        """Those candidates that may go to the gate; every one proposed is on record, refused ones with reasons."""
        parts = self._parts
        sampled = [text for trace in brief.sample for text in (as_text(trace.prompt), as_text(trace.completion))]
        rolled_back = await parts.store.rolled_back(self._line)
        clean: list[Candidate] = []
        for candidate in proposed:
            digest = await parts.store.put(self._line.task, candidate.rubric)
            await self._record(EventKind.PROPOSED, digest, candidate.proposer, candidate.rubric.rationale)
            reasons = lint(candidate.rubric, brief.active, sampled, rolled_back)
            if len(clean) == parts.settings.max_candidates:
                reasons.append(f"budget: {parts.settings.max_candidates} candidates a cycle")
            if reasons:
                await self._record(EventKind.REJECTED, digest, "lint", "; ".join(reasons))
            else:
                clean.append(candidate)
        return clean

    async def _record(self, kind: EventKind, digest: str, by: str, reason: str) -> None:
        await self._parts.store.record_verdict(self._line, kind, digest, by=by, reason=reason, cycle=self.name)

    async def _gate(
        self, candidates: Sequence[Candidate], anchors: AnchorSet, active: Rubric, baseline: Sequence[Trace]
    ) -> tuple[list[GateReport], list[str]]:
        if not candidates:
            return [], []
        settings = self._parts.settings
        affordable = await self._within_budget(candidates)
        if not affordable:
            return [], []
        await self._at(Stage.GATE, f"{len(affordable)} candidates on {len(anchors.cases)} anchors")
        limits = Limits(settings.gate_alpha, settings.gate_margin)
        early = by_group([trace for trace in baseline if not trace.flags])
        score = shadow_scorer(self._parts.client, settings.gate_batch)
        gate = Gate(score, self._line.task, anchors, limits, early)
        try:
            reports = await gate.decide(self.name, affordable, active, await self._best_earlier(active))
        except GateError as error:
            for candidate in affordable:
                await self._record(EventKind.REJECTED, candidate.rubric.digest, "gate", f"not measured: {error}")
            return [], [f"gate: {error}"]
        for report in reports:
            await self._parts.store.record_gate(self._line, report)
        return reports, []

    async def _within_budget(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those candidates that cost no more judge calls an item than allowed; known before anything is scored."""
        most = self._parts.settings.max_llm_criteria
        affordable = [c for c in candidates if len(c.rubric.llm_criteria) <= most]
        for candidate in candidates:
            if candidate not in affordable:
                reason = f"budget: {len(candidate.rubric.llm_criteria)} judge calls an item, {most} at most"
                await self._record(EventKind.REJECTED, candidate.rubric.digest, "gate", reason)
        return affordable

    async def _best_earlier(self, active: Rubric) -> Rubric | None:
        """Of the rubrics active before, the one that ordered anchors best."""
        store = self._parts.store
        earlier = set((await store.versions(self._line)).values()) - {active.digest}
        gates = [event.gate for event in await store.history(self._line) if event.gate is not None]
        best = best_measured(gates, earlier)
        return None if best is None else await store.labelled(self._line, best)

    async def _activate(self, reports: Sequence[GateReport], active: Rubric) -> str | None:
        """Activate the passing candidate with the largest certain gain."""
        passed = [report for report in reports if report.passed]
        if not passed:
            return None
        best = max(passed, key=lambda report: report.order_gain_lower + report.attack_gain_lower)
        digest = best.candidate.digest
        await self._at(Stage.ACTIVATE, digest[:12])
        authority = GatePass(cycle=self.name)
        try:
            await self._parts.store.activate(
                self._line, digest, expected=active.digest, authority=authority, token=self._token
            )
        except ServiceError as error:
            await self._record(EventKind.REJECTED, digest, "activation", error.detail)
            return None
        return digest
