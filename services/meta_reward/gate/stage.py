"""The gate's stage of a cycle: which candidates are measured and against what, calibrated first where that is on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from regrade import RewardClient
from regrade.contracts import EventKind, GateReport, LineageEvent, Rubric, Trace, as_text
from regrade.tasks import judge_mode
from regrade.tasks.anchors import AnchorSet, has_more_than_first_line
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore, candidate_event, gate_event
from services.meta_reward.clients.shadow import shadow_scorer
from services.meta_reward.evidence.window import by_group
from services.meta_reward.gate.calibration import Calibration, without_offset
from services.meta_reward.gate.gate import (
    Gate,
    GateError,
    GateLimits,
    OnProgress,
    best_measured_digest,
)
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.types import Candidate


class GateOutcome(NamedTuple):
    """Reports on what was measured, the verdicts to be put on record, and notes for the cycle's report."""

    reports: tuple[GateReport, ...] = ()
    events: tuple[LineageEvent, ...] = ()
    notes: tuple[str, ...] = ()


class GateStage:
    """The gate of one cycle of one line, against one active rubric."""

    def __init__(
        self,
        *,
        store: RubricStore,
        client: RewardClient,
        settings: MetaRewardSettings,
        lineage: LineageKey,
        cycle: str,
        active: Rubric,
        anchors: AnchorSet,
        decision: int,
        tell: OnProgress,
    ) -> None:
        """`decision` is the 1-based index of this decision; `tell` receives the progress."""
        self._tell = tell
        self._store = store
        self._client = client
        self._settings = settings
        self._lineage = lineage
        self._cycle = cycle
        self._active = active
        self._anchors = anchors
        self._decision = decision
        self._events: list[LineageEvent] = []

    async def decide(self, candidates: Sequence[Candidate], first: Sequence[Trace]) -> GateOutcome:
        """A verdict on each candidate. `first` are the traces of a run's first steps.

        Raises `ServiceUnavailableError` when the judge stays away: then nothing is decided.
        """
        affordable = [candidate for candidate in candidates if self._is_affordable(candidate)]
        if self._lineage.task in self._settings.calibrate:
            affordable = await self._calibrated(affordable)
        if not affordable:
            return GateOutcome(events=tuple(self._events))
        settings = self._settings
        early = by_group([t for t in first if not t.flags and has_more_than_first_line(as_text(t.completion))])
        history = await self._store.history(self._lineage)
        mode = judge_mode(self._lineage.task)
        limits = GateLimits(settings.gate_alpha, settings.gate_margin, self._decision, settings.gate_calls, mode)
        score = shadow_scorer(self._client, settings.gate_batch)
        gate = Gate(score, self._lineage.task, self._anchors, limits, early, self._tell)
        earlier = await self._best_earlier(history)
        try:
            found = await gate.decide(self._cycle, affordable, self._active, earlier)
        except GateError as error:
            for candidate in affordable:
                self._refuse(candidate.rubric, f"not measured: {error}")
            return GateOutcome(events=tuple(self._events), notes=(f"gate: {error}",))
        for left_out, why in found.unmeasured:
            self._refuse(left_out.rubric, why)
        return GateOutcome(tuple(found.reports), (*self._events, *map(gate_event, found.reports)))

    def _is_affordable(self, candidate: Candidate) -> bool:
        """Whether it costs no more judge calls an item than allowed; known before anything is scored."""
        most = max(self._settings.max_llm_criteria, len(self._active.llm_criteria))
        calls = len(candidate.rubric.llm_criteria)
        if calls > most:
            self._refuse(candidate.rubric, f"budget: {calls} judge calls an item, {most} at most")
        return calls <= most

    async def _calibrated(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Each with the offset that keeps trusted text where it was; a digest of its own, on record with the reason."""
        visible = [(original.prompt, original.completion) for original in self._anchors.visible]
        calibration = Calibration(self._client, self._lineage.task, visible, self._settings.gate_batch)
        ready = []
        for candidate in candidates:
            found = await calibration.of(candidate.rubric, self._active)
            if found.refused:
                self._refuse(candidate.rubric, found.refused)
                continue
            if found.rubric.digest != candidate.rubric.digest:
                await self._store.put(self._lineage.task, found.rubric)
                self._note(EventKind.PROPOSED, found.rubric, "calibration", found.told)
            ready.append(replace(candidate, rubric=found.rubric))
        return ready

    async def _best_earlier(self, history: Sequence[LineageEvent]) -> Rubric | None:
        """Of the rubrics active before, the one that ordered anchors best."""
        earlier = set((await self._store.versions(self._lineage)).values()) - {self._active.digest}
        gates = [event.gate for event in history if event.gate is not None]
        best = best_measured_digest(gates, earlier)
        return None if best is None else await self._store.labelled(self._lineage, best)

    def _refuse(self, rubric: Rubric, reason: str) -> None:
        self._note(EventKind.REJECTED, rubric, "gate", reason)

    def _note(self, kind: EventKind, rubric: Rubric, by: str, reason: str) -> None:
        self._events.append(candidate_event(kind, rubric.digest, by=by, reason=reason, cycle=self._cycle))


async def rolled_back_reasons(store: RubricStore, lineage: LineageKey) -> dict[str, str]:
    """Why it was rolled back, by the digest it has without an offset: another offset makes no other rubric."""
    found = await store.rolled_back(lineage)
    return {without_offset(await store.get(lineage.task, digest)).digest: reason for digest, reason in found.items()}
