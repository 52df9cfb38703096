"""The cycle's gate stage: which candidates are measured, against which rubrics, after calibration where that is on."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from regrade import RewardClient
from regrade.contracts import (
    EventKind,
    GateReport,
    LineageEvent,
    Reason,
    ReasonCode,
    Rubric,
    RubricFigures,
    Trace,
    as_text,
)
from regrade.tasks import judge_mode
from regrade.tasks.anchors import AnchorSet, has_more_than_first_line
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore, candidate_event, gate_event, refusal_event
from services.meta_reward.clients.shadow import shadow_scorer
from services.meta_reward.evidence.window import by_group
from services.meta_reward.gate.acceptance import MAX_UNSCORED
from services.meta_reward.gate.calibration import Calibration, without_offset
from services.meta_reward.gate.gate import Gate, GateError, GateLimits, OnProgress
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.types import Candidate


class GateOutcome(NamedTuple):
    """Reports on what was measured, lineage events, and notes for the cycle's report."""

    reports: tuple[GateReport, ...] = ()
    events: tuple[LineageEvent, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GateStage:
    """The gate of one cycle of one lineage, against one active rubric."""

    store: RubricStore
    client: RewardClient
    settings: MetaRewardSettings
    lineage: LineageKey
    cycle: str
    active: Rubric
    anchors: AnchorSet
    decision: int
    """1-based index of this decision among those against the active rubric."""
    on_progress: OnProgress
    _events: list[LineageEvent] = field(default_factory=list)

    async def decide(self, candidates: Sequence[Candidate], first: Sequence[Trace]) -> GateOutcome:
        """Accept or refuse each candidate. `first` are the traces of a run's first steps.

        Raises `ServiceUnavailableError` when the judge is down: then nothing is decided.
        """
        measurable = [candidate for candidate in candidates if self._is_affordable(candidate)]
        if self.lineage.task in self.settings.calibrate:
            measurable = await self._calibrated(measurable)
        if not measurable:
            return GateOutcome(events=tuple(self._events))
        trusted = by_group([t for t in first if not t.flags and has_more_than_first_line(as_text(t.completion))])
        score = shadow_scorer(self.client, self.settings.gate_batch)
        gate = Gate(score, self.lineage.task, self.anchors, self._limits(), trusted, self.on_progress)
        best_earlier = await self._best_earlier()
        try:
            decision = await gate.decide(self.cycle, measurable, self.active, best_earlier)
        except GateError as error:
            for candidate in measurable:
                reason = Reason(code=ReasonCode.NOT_MEASURED, text=f"not measured: {error}")
                self._refuse(candidate.rubric, reason)
            return GateOutcome(events=tuple(self._events), notes=(f"gate: {error}",))
        for candidate, reason in decision.unmeasured:
            self._refuse(candidate.rubric, reason)
        return GateOutcome(tuple(decision.reports), (*self._events, *map(gate_event, decision.reports)))

    def _limits(self) -> GateLimits:
        alpha, margin, calls = self.settings.gate_alpha, self.settings.gate_margin, self.settings.gate_calls
        return GateLimits(alpha, margin, self.decision, calls, judge_mode(self.lineage.task))

    def _is_affordable(self, candidate: Candidate) -> bool:
        """Whether scoring by it takes no more judge calls per item than allowed; refused here, before any is made."""
        limit = max(self.settings.max_llm_criteria, len(self.active.llm_criteria))
        calls = len(candidate.rubric.llm_criteria)
        if calls > limit:
            text = f"budget: {calls} judge calls per item, {limit} at most"
            self._refuse(candidate.rubric, Reason(code=ReasonCode.BUDGET, text=text))
        return calls <= limit

    async def _calibrated(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates with their offset. It changes the digest, so each is recorded with the reason for its offset."""
        visible = [(original.prompt, original.completion) for original in self.anchors.visible]
        calibration = Calibration(self.client, self.lineage.task, visible, self.settings.gate_batch)
        ready = []
        for candidate in candidates:
            result = await calibration.calibrate(candidate.rubric, self.active)
            if result.refusal is not None:
                self._refuse(candidate.rubric, result.refusal)
                continue
            if result.rubric.digest != candidate.rubric.digest:
                await self.store.put(self.lineage.task, result.rubric)
                origin = {"by": "calibration", "reason": result.explanation, "cycle": self.cycle}
                self._events.append(candidate_event(EventKind.PROPOSED, result.rubric.digest, **origin))
            ready.append(replace(candidate, rubric=result.rubric))
        return ready

    async def _best_earlier(self) -> Rubric | None:
        """Of the rubrics active before, the one with the best anchor order."""
        earlier = set((await self.store.versions(self.lineage)).values()) - {self.active.digest}
        history = await self.store.history(self.lineage)
        best = best_measured_digest([event.gate for event in history if event.gate is not None], earlier)
        return None if best is None else await self.store.labelled(self.lineage, best)

    def _refuse(self, rubric: Rubric, reason: Reason) -> None:
        self._events.append(refusal_event(rubric.digest, [reason], by="gate", cycle=self.cycle))


def best_measured_digest(reports: Sequence[GateReport], digests: Set[str]) -> str | None:
    """Of `digests`, the one with the best anchor order in its fullest (then latest) measurement; None without any.

    Partial measurements (interim analyses, few common anchors) do not compare with full ones and are left out.
    """
    figures: dict[str, RubricFigures] = {}
    for report in reports:
        for new in (report.active, report.candidate, report.best_earlier):
            if new is None or new.digest not in digests:
                continue
            if new.digest not in figures or new.judged >= figures[new.digest].judged:
                figures[new.digest] = new
    most_judged = max((one.judged for one in figures.values()), default=0)
    full = [one for one in figures.values() if one.judged >= (1 - MAX_UNSCORED) * most_judged]
    return max(full, key=lambda one: one.order).digest if full else None


async def rolled_back_reasons(store: RubricStore, lineage: LineageKey) -> dict[str, str]:
    """By digest without an offset, why a rubric was rolled back: another offset makes no other rubric."""
    rolled_back = await store.rolled_back(lineage)
    return {
        without_offset(await store.get(lineage.task, digest)).digest: reason for digest, reason in rolled_back.items()
    }
