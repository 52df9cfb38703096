"""The paper's proposer: prescreen the sample, analyse each trace, refine from each analysis, merge the refinements.

In a scope of a depth task it rewrites the scope's guidelines instead, from the analyses.

Source: Meta Policy Optimization, arXiv 2504.20157, section 3. Unlike there, traces are fenced, answers are bound to a
schema, and the result is a candidate for the gate, not the next rubric.
"""

from collections.abc import Awaitable, Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from regrade.contracts import Stage, Trace, as_text
from services.meta_reward.propose.base import Progress, build_candidate
from services.meta_reward.propose.meta_judge_session import (
    MetaJudgeProposer,
    MetaJudgeSession,
    Refinement,
    Reply,
    Sentence,
    outline,
)
from services.meta_reward.types import Proposal

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
    """Breadth: new criteria for the whole task. Depth: new guidelines for one scope of it."""

    name = "paper"

    async def _propose(self, session: MetaJudgeSession, progress: Progress) -> Proposal:
        sample = session.context.sample
        await progress(Stage.PRESCREEN, f"{len(sample)} traces")
        screenings = await session.ask_each("prescreen", sample, lambda t: _about(session, "prescreen", Screening, t))
        screened = [(t, _WORST_FIRST[s.verdict]) for t, s in zip(sample, screenings, strict=True) if s]
        worst_first = [trace for trace, _ in sorted(screened, key=lambda pair: pair[1])]
        await progress(Stage.ANALYSE, f"{len(worst_first)} traces")
        answers = await session.ask_each("analyse", worst_first, lambda t: _about(session, "analyse", Analysis, t))
        analyses = [answer for answer in answers if answer is not None]
        if session.context.guided:
            return await _rewrite_guidelines(session, analyses, progress)
        await progress(Stage.REFINE, f"{len(analyses)} analyses")
        refined = await session.ask_each("refine", analyses, lambda a: _refine(session, a))
        refinements = [refinement for refinement in refined if refinement is not None]
        await progress(Stage.MERGE, f"{len(refinements)} refinements")
        return await session.merge(refinements, "merged from sampled traces")


async def _rewrite_guidelines(session: MetaJudgeSession, analyses: Sequence[Analysis], progress: Progress) -> Proposal:
    """One candidate with the scope's guidelines, from which the judge plans, rewritten; the criteria stay."""
    if not analyses:
        return session.failed("no analysis came through")
    await progress(Stage.MERGE, f"guidelines from {len(analyses)} analyses")
    active = session.context.active
    answer = await session.ask(
        "guide",
        Guidelines,
        guidelines=session.fence("GUIDELINES", active.preamble or "None yet."),
        rubric=outline(active),
        analyses=session.fence("ANALYSES", "\n".join(map(_text_of, analyses))),
    )
    preamble = "\n".join(f"- {sentence}" for sentence in dict.fromkeys(answer.guidelines))
    rationale = f"guidelines rewritten for scope {active.scope}"
    return session.proposal(
        build_candidate(session.context, by=PaperProposer.name, rationale=rationale, preamble=preamble)
    )


def _about(session: MetaJudgeSession, template: str, schema: type[A], trace: Trace) -> Awaitable[A]:
    case = session.case(as_text(trace.prompt), as_text(trace.completion))
    return session.ask(template, schema, case=f"{case}\n\nScore given: {trace.reward:.2f} of 1.00")


def _refine(session: MetaJudgeSession, analysis: Analysis) -> Awaitable[Refinement]:
    fenced = session.fence("ANALYSIS", _text_of(analysis))
    return session.ask("refine", Refinement, rubric=outline(session.context.active), analysis=fenced)


def _text_of(analysis: Analysis) -> str:
    return f"Missing: {analysis.missing}\nFault: {analysis.fault}"
