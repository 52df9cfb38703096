"""The paper's proposer: prescreen, analyse each sample, refine from each analysis, merge the refinements.

Source: Meta Policy Optimization, arXiv 2504.20157, section 3. Unlike there, traces are fenced, replies
are bound to a schema, and what comes out is a candidate for the gate, not the next rubric.
"""

from collections.abc import Awaitable
from typing import Literal, TypeVar

from regrade.contracts import Stage, Trace, as_text
from services.meta_reward.metajudge import MetaJudge
from services.meta_reward.propose.asking import Asking, Refinement, Reply, Sentence, outline
from services.meta_reward.propose.base import Brief, Progress, Proposal

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


class PaperProposer:
    """Breadth: one set of new criteria for the whole task."""

    name = "paper"

    def __init__(self, meta_judge: MetaJudge) -> None:
        self._meta_judge = meta_judge

    async def propose(self, brief: Brief, progress: Progress) -> Proposal:
        """At most one candidate: the active rubric with the merged criteria added."""
        asking = Asking(self._meta_judge, brief, self.name)
        await progress(Stage.PRESCREEN, f"{len(brief.sample)} traces")
        verdicts = await asking.each("prescreen", brief.sample, lambda t: _about(asking, "prescreen", Screening, t))
        screened = [(t, _WORST_FIRST[v.verdict]) for t, v in zip(brief.sample, verdicts, strict=True) if v]
        kept = [trace for trace, _ in sorted(screened, key=lambda found: found[1])]
        await progress(Stage.ANALYSE, f"{len(kept)} traces")
        analyses = await asking.each("analyse", kept, lambda t: _about(asking, "analyse", Analysis, t))
        found = [analysis for analysis in analyses if analysis is not None]
        await progress(Stage.REFINE, f"{len(found)} analyses")
        refined = await asking.each("refine", found, lambda a: _refine(asking, brief, a))
        refinements = [refinement for refinement in refined if refinement is not None]
        await progress(Stage.MERGE, f"{len(refinements)} refinements")
        return await asking.merged(refinements, "merged from sampled traces")


def _about(asking: Asking, question: str, answer: type[A], trace: Trace) -> Awaitable[A]:
    case = asking.case(as_text(trace.prompt), as_text(trace.completion))
    return asking.ask(question, answer, case=f"{case}\n\nScore given: {trace.reward:.2f} of 1.00")


def _refine(asking: Asking, brief: Brief, analysis: Analysis) -> Awaitable[Refinement]:
    found = asking.fence("ANALYSIS", f"Missing: {analysis.missing}\nFault: {analysis.fault}")
    return asking.ask("refine", Refinement, rubric=outline(brief.active), analysis=found)
