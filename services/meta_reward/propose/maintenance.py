"""Maintenance of the active rubric: criteria without spread are removed, those that most completions top are tightened.

Over a third of the criteria of generated rubrics give no gradient (arXiv 2605.20164). A veto or a check may show no
spread because it works, so guards are exempt, and so is the core.
"""

from pydantic import ValidationError

from regrade.contracts import CriterionFigures, LlmCriterion, Role, Stage
from services.meta_reward.propose.base import Progress, ProposalContext, build_candidate, is_replaceable
from services.meta_reward.propose.meta_judge_session import (
    Levels,
    MetaJudgeProposer,
    MetaJudgeSession,
    Reply,
    first_line_of,
)
from services.meta_reward.types import Candidate, Proposal

MIN_TRACES = 32
"""With fewer traces, scores may be equal by chance."""
_MIN_FLAT_GROUPS = 0.95
_MAX_FLAT_STD = 0.02
"""Judges rarely repeat an expected level exactly, so "no spread" leaves room for noise."""
_TOPPED_MEAN = 0.85
"""Above level 4 of 5 on average, within `_TOPPED_STD`: nothing is left to improve."""
_TOPPED_STD = 0.15


class Tightened(Reply):
    """Level texts that are harder to reach, worst first."""

    levels: Levels


class PruningProposer:
    """Removes criteria without spread. Needs no meta-judge."""

    name = "pruning"

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """At most one candidate."""
        figures = context.evidence.criteria
        flat = [c.id for c in context.active.criteria if is_replaceable(context, c) and _is_flat(figures.get(c.id))]
        if not flat:
            return Proposal()
        rationale = "; ".join(f"{name} gave no spread" for name in flat)
        try:
            rubric = build_candidate(context, by=self.name, rationale=rationale, without=frozenset(flat))
        except ValidationError as error:
            return Proposal(notes=(f"pruning: no award would be left ({first_line_of(error)})",))
        return Proposal((Candidate(rubric, self.name),))


class TighteningProposer(MetaJudgeProposer):
    """Has the meta-judge rewrite the levels of the award that most completions top; at most one candidate."""

    name = "tightening"

    async def _propose(self, session: MetaJudgeSession, progress: Progress) -> Proposal:
        context = session.context
        figures = context.evidence.criteria
        topped = [c for c in context.active.llm_criteria if c.role is Role.AWARD and _is_topped(figures.get(c.id))]
        if not topped:
            return Proposal()
        chosen = max(topped, key=lambda criterion: figures[criterion.id].mean)
        await progress(Stage.REFINE, f"tightens {chosen.id}")
        levels = "\n".join(f"{n}: {text}" for n, text in enumerate(chosen.levels))
        fenced = session.fence("CRITERION", f"{chosen.name}\n{chosen.description}\n{levels}")
        answer = await session.ask("tighten", Tightened, criterion=fenced)
        harder = LlmCriterion.model_validate(chosen.model_dump() | {"levels": tuple(answer.levels)})
        rationale = f"most completions topped {chosen.id}"
        return session.proposal(
            build_candidate(context, by=self.name, rationale=rationale, changed={chosen.id: harder})
        )


def _is_flat(figures: CriterionFigures | None) -> bool:
    if figures is None or figures.traces < MIN_TRACES:
        return False
    return figures.flat_groups >= _MIN_FLAT_GROUPS and figures.std <= _MAX_FLAT_STD


def _is_topped(figures: CriterionFigures | None) -> bool:
    if figures is None or figures.traces < MIN_TRACES:
        return False
    return figures.mean >= _TOPPED_MEAN and figures.std <= _TOPPED_STD
