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
from services.meta_reward.gate.gate import Candidate
from services.meta_reward.propose.base import Brief, Progress, Proposal, composed
from services.meta_reward.propose.meta_judge_session import (
    Asking,
    AskingProposer,
    Refinement,
    Reply,
    Sentence,
    first_line_of,
    outline,
)

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


class PaperProposer(AskingProposer):
    """Breadth: one set of new criteria for the whole task. Depth: other guidelines for one scope of it."""

    name = "paper"

    async def _ask(self, asking: Asking, brief: Brief, progress: Progress) -> Proposal:
        await progress(Stage.PRESCREEN, f"{len(brief.sample)} traces")
        verdicts = await asking.each("prescreen", brief.sample, lambda t: _about(asking, "prescreen", Screening, t))
        screened = [(t, _WORST_FIRST[v.verdict]) for t, v in zip(brief.sample, verdicts, strict=True) if v]
        kept = [trace for trace, _ in sorted(screened, key=lambda found: found[1])]
        await progress(Stage.ANALYSE, f"{len(kept)} traces")
        analyses = await asking.each("analyse", kept, lambda t: _about(asking, "analyse", Analysis, t))
        found = [analysis for analysis in analyses if analysis is not None]
        if brief.guided:
            return await _guide(asking, brief, found, progress)
        await progress(Stage.REFINE, f"{len(found)} analyses")
        refined = await asking.each("refine", found, lambda a: _refine(asking, brief, a))
        refinements = [refinement for refinement in refined if refinement is not None]
        await progress(Stage.MERGE, f"{len(refinements)} refinements")
        return await asking.merged(refinements, "merged from sampled traces")


async def _guide(asking: Asking, brief: Brief, found: Sequence[Analysis], progress: Progress) -> Proposal:
    """One candidate with the scope's guidelines rewritten: the judge plans its grading by them. Criteria stay."""
    if not found:
        return asking.failed("no analysis came through")
    await progress(Stage.MERGE, f"guidelines from {len(found)} analyses")
    told = "\n".join(f"Missing: {a.missing}\nFault: {a.fault}" for a in found)
    shown = {
        "guidelines": asking.fence("GUIDELINES", brief.active.preamble or "None yet."),
        "rubric": outline(brief.active),
        "analyses": asking.fence("ANALYSES", told),
    }
    try:
        answer = await asking.ask("guide", Guidelines, **shown)
        preamble = "\n".join(f"- {line}" for line in dict.fromkeys(answer.guidelines))
        why = f"guidelines rewritten for scope {brief.active.scope}"
        rubric = composed(brief, by=PaperProposer.name, rationale=why, preamble=preamble)
    except (UpstreamError, ValidationError) as error:
        return asking.failed(f"guide dropped ({first_line_of(error)})")
    return Proposal((Candidate(rubric, PaperProposer.name),), tuple(asking.notes))


def _about(asking: Asking, question: str, answer: type[A], trace: Trace) -> Awaitable[A]:
    case = asking.case(as_text(trace.prompt), as_text(trace.completion))
    return asking.ask(question, answer, case=f"{case}\n\nScore given: {trace.reward:.2f} of 1.00")


def _refine(asking: Asking, brief: Brief, analysis: Analysis) -> Awaitable[Refinement]:
    found = asking.fence("ANALYSIS", f"Missing: {analysis.missing}\nFault: {analysis.fault}")
    return asking.ask("refine", Refinement, rubric=outline(brief.active), analysis=found)
