"""The paper's proposer: prescreen, analyse each sample, refine from each analysis, merge the refinements.

For a scope of a depth task it rewrites the scope's guidelines instead, from the analyses of several of its cases.

Source: Meta Policy Optimization, arXiv 2504.20157, section 3. Unlike there, traces are fenced, replies
are bound to a schema, and what comes out is a candidate for the gate, not the next rubric.
"""

from collections.abc import Awaitable, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from regrade.contracts import Stage, Trace, as_text
from services.kit.http.client import UpstreamError
from services.meta_reward.propose.base import Progress, ProposalContext, build_candidate
from services.meta_reward.propose.meta_judge_session import (
    MetaJudgeProposer,
    MetaJudgeSession,
    Refinement,
    Reply,
    Sentence,
    first_line_of,
    outline,
)
from services.meta_reward.types import Candidate, Proposal

A = TypeVar("A", bound=Reply)

_WORST_FIRST = {"bad": 0, "ok": 1, "good": 2}


class Screening(Reply):
    """How well the score fits the response."""

    verdict: Literal["good", "ok", "bad"]


class Analysis(Reply):
    """What the rubric misses in one scored response."""

    inflated: bool
    missing: Sentence
    fault: Sentence


class Guidelines(Reply):
    """What a grader of one kind of task looks at."""

    guidelines: Annotated[list[Sentence], Field(min_length=2, max_length=8)]


class PaperProposer(MetaJudgeProposer):
    """Breadth: one set of new criteria for the whole task. Depth: other guidelines for one scope of it."""

    name = "paper"

    async def _propose(self, session: MetaJudgeSession, context: ProposalContext, progress: Progress) -> Proposal:
        await progress(Stage.PRESCREEN, f"{len(context.sample)} traces")
        verdicts = await session.gather(
            "prescreen", context.sample, lambda t: _about(session, "prescreen", Screening, t)
        )
        screened = [(t, _WORST_FIRST[v.verdict]) for t, v in zip(context.sample, verdicts, strict=True) if v]
        kept = [trace for trace, _ in sorted(screened, key=lambda found: found[1])]
        await progress(Stage.ANALYSE, f"{len(kept)} traces")
        analyses = await session.gather("analyse", kept, lambda t: _about(session, "analyse", Analysis, t))
        found = [analysis for analysis in analyses if analysis is not None]
        if context.guided:
            return await _guide(session, context, found, progress)
        await progress(Stage.REFINE, f"{len(found)} analyses")
        refined = await session.gather("refine", found, lambda a: _refine(session, context, a))
        refinements = [refinement for refinement in refined if refinement is not None]
        await progress(Stage.MERGE, f"{len(refinements)} refinements")
        return await session.merge(refinements, "merged from sampled traces")


async def _guide(
    session: MetaJudgeSession, context: ProposalContext, found: Sequence[Analysis], progress: Progress
) -> Proposal:
    """One candidate with the scope's guidelines rewritten: the judge plans its grading by them. Criteria stay."""
    if not found:
        return session.failed("no analysis came through")
    await progress(Stage.MERGE, f"guidelines from {len(found)} analyses")
    told = "\n".join(f"Missing: {a.missing}\nFault: {a.fault}" for a in found)
    shown = {
        "guidelines": session.fence("GUIDELINES", context.active.preamble or "None yet."),
        "rubric": outline(context.active),
        "analyses": session.fence("ANALYSES", told),
    }
    try:
        answer = await session.ask("guide", Guidelines, **shown)
        preamble = "\n".join(f"- {line}" for line in dict.fromkeys(answer.guidelines))
        why = f"guidelines rewritten for scope {context.active.scope}"
        rubric = build_candidate(context, by=PaperProposer.name, rationale=why, preamble=preamble)
    except (UpstreamError, ValidationError) as error:
        return session.failed(f"guide dropped ({first_line_of(error)})")
    return Proposal((Candidate(rubric, PaperProposer.name),), tuple(session.notes))


def _about(session: MetaJudgeSession, question: str, answer: type[A], trace: Trace) -> Awaitable[A]:
    case = session.case(as_text(trace.prompt), as_text(trace.completion))
    return session.ask(question, answer, case=f"{case}\n\nScore given: {trace.reward:.2f} of 1.00")


def _refine(session: MetaJudgeSession, context: ProposalContext, analysis: Analysis) -> Awaitable[Refinement]:
    found = session.fence("ANALYSIS", f"Missing: {analysis.missing}\nFault: {analysis.fault}")
    return session.ask("refine", Refinement, rubric=outline(context.active), analysis=found)
