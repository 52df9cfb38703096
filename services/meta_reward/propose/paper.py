"""The paper's proposer: prescreen, analyse each sample, refine from each analysis, merge the refinements.

Source: Meta Policy Optimization, arXiv 2504.20157, section 3. Unlike there, traces are fenced, replies
are bound to a schema, and what comes out is a candidate for the gate, not the next rubric.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from regrade.contracts import LlmCriterion, Role, Rubric, Stage, Trace, as_text
from services.kit.fence import fence
from services.kit.http import UpstreamError
from services.meta_reward.gate import Candidate
from services.meta_reward.metajudge import MetaJudge
from services.meta_reward.propose.base import Brief, Progress, Proposal, extended

S = TypeVar("S")
T = TypeVar("T")

Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=200)]
LevelText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=100)]
_MAX_SHOWN_CHARS = 4_000


class Reply(BaseModel):
    """A meta-judge's reply: exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class Screening(Reply):
    """How well the score fits the response."""

    verdict: Literal["good", "ok", "bad"]


class Analysis(Reply):
    """What the rubric misses in one scored response."""

    inflated: bool
    missing: Sentence
    fault: Sentence


class NewCriterion(Reply):
    """One criterion, with a text for each level, worst first."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=60)]
    fault: bool
    description: Sentence
    levels: Annotated[list[LevelText], Field(min_length=6, max_length=6)]


class Refinement(Reply):
    """Criteria to add."""

    criteria: Annotated[list[NewCriterion], Field(min_length=1, max_length=3)]


class PaperProposer:
    """Breadth: one set of new criteria for the whole task."""

    name = "paper"

    def __init__(self, meta_judge: MetaJudge) -> None:
        self._meta_judge = meta_judge

    async def propose(self, brief: Brief, progress: Progress) -> Proposal:
        """At most one candidate: the active rubric with the merged criteria added."""
        notes: list[str] = []
        await progress(Stage.PRESCREEN, f"{len(brief.sample)} traces")
        verdicts = await self._each(brief.sample, lambda t: self._prescreen(brief, t), "prescreen", notes)
        order = {"bad": 0, "ok": 1, "good": 2}
        kept = [trace for trace, found in zip(brief.sample, verdicts, strict=True) if found is not None]
        found_order = {t.trace_id: order[v.verdict] for t, v in zip(brief.sample, verdicts, strict=True) if v}
        kept.sort(key=lambda trace: found_order[trace.trace_id])
        await progress(Stage.ANALYSE, f"{len(kept)} traces")
        analyses = await self._each(kept, lambda t: self._analyse(brief, t), "analyse", notes)
        await progress(Stage.REFINE, f"{sum(a is not None for a in analyses)} analyses")
        refined = await self._each([a for a in analyses if a], lambda a: self._refine(brief, a), "refine", notes)
        refinements = [r for r in refined if r is not None]
        if not refinements:
            return _failed(notes, "no refinement came through")
        await progress(Stage.MERGE, f"{len(refinements)} refinements")
        try:
            merged = await self._merge(brief, refinements)
            candidate = extended(
                brief.active, _criteria(merged, brief.active), by=self.name, rationale="merged from sampled traces"
            )
        except (UpstreamError, ValidationError) as error:
            return _failed(notes, f"merge dropped ({_brief(error)})")
        return Proposal((Candidate(candidate, self.name),), tuple(notes))

    async def _each(
        self, inputs: Iterable[S], step: Callable[[S], Awaitable[T]], name: str, notes: list[str]
    ) -> list[T | None]:
        """One step for each input, concurrently; a failed one is None and leaves a note."""

        async def one(value: S) -> T | None:
            try:
                return await step(value)
            except UpstreamError as error:
                notes.append(f"paper: {name} dropped ({_brief(error)})")
                return None

        return list(await asyncio.gather(*(one(value) for value in inputs)))

    def _prescreen(self, brief: Brief, trace: Trace) -> Awaitable[Screening]:
        return self._meta_judge.ask(
            "prescreen", Screening, cycle=brief.cycle, role=brief.meta_role, case=self._case(brief, trace)
        )

    def _analyse(self, brief: Brief, trace: Trace) -> Awaitable[Analysis]:
        return self._meta_judge.ask(
            "analyse", Analysis, cycle=brief.cycle, role=brief.meta_role, case=self._case(brief, trace)
        )

    def _refine(self, brief: Brief, analysis: Analysis) -> Awaitable[Refinement]:
        found = self._fence("ANALYSIS", f"Missing: {analysis.missing}\nFault: {analysis.fault}")
        rubric = _outline(brief.active)
        return self._meta_judge.ask(
            "refine", Refinement, cycle=brief.cycle, role=brief.meta_role, rubric=rubric, analysis=found
        )

    def _merge(self, brief: Brief, refinements: list[Refinement]) -> Awaitable[Refinement]:
        listed = [f"{c.name}: {c.description}" for refinement in refinements for c in refinement.criteria]
        text = self._fence("PROPOSALS", "\n".join(dict.fromkeys(listed)))
        rubric = _outline(brief.active)
        return self._meta_judge.ask(
            "merge", Refinement, cycle=brief.cycle, role=brief.meta_role, rubric=rubric, proposals=text
        )

    def _case(self, brief: Brief, trace: Trace) -> str:
        return "\n\n".join(
            (
                f"Rubric:\n{_outline(brief.active)}",
                self._fence("TASK", as_text(trace.prompt)),
                self._fence("RESPONSE", as_text(trace.completion)),
                f"Score given: {trace.reward:.2f} of 1.00",
            )
        )

    def _fence(self, label: str, text: str) -> str:
        return fence(label, text[:_MAX_SHOWN_CHARS], self._meta_judge.fence_key)


def _outline(rubric: Rubric) -> str:
    return "\n".join(f"- {criterion.name}" for criterion in rubric.criteria)


def _criteria(merged: Refinement, active: Rubric) -> list[LlmCriterion]:
    taken = {criterion.id for criterion in active.criteria}
    ids = (f"llm-{n}" for n in range(1, 1_000) if f"llm-{n}" not in taken)
    room = active.total_weight(Role.AWARD)
    return [
        LlmCriterion.model_validate(
            {
                "kind": "llm",
                "id": name,
                "name": new.name,
                "role": Role.DEDUCT if new.fault else Role.AWARD,
                "weight": room / (2 * len(merged.criteria)),
                "description": new.description,
                "levels": new.levels,
            }
        )
        for name, new in zip(ids, merged.criteria, strict=False)
    ]


def _failed(notes: list[str], why: str) -> Proposal:
    """What stood in the way first is told with the reason."""
    reason = f"{why}; {notes[0].removeprefix('paper: ')}" if notes else why
    return Proposal((), (*notes, f"paper: {why}"), failed=reason)


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0][:160]
