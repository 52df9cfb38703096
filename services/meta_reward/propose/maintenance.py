"""Upkeep of the rubric there is: criteria that tell nothing apart go, those that everything tops are tightened.

Over a third of the criteria of generated rubrics give no gradient (arXiv 2605.20164). A veto or a check may lie
still because it works: a policy that keeps to it shows no spread. So guards are exempt, and so is the core.
"""

from pydantic import ValidationError

from regrade.contracts import Criterion, CriterionFigures, LlmCriterion, Role, Stage
from services.kit.http.client import UpstreamError
from services.meta_reward.propose.base import Progress, ProposalContext, build_candidate
from services.meta_reward.propose.meta_judge_session import (
    Levels,
    MetaJudgeProposer,
    MetaJudgeSession,
    Reply,
    first_line_of,
)
from services.meta_reward.types import Candidate, Proposal

FEWEST_TRACES = 32
_FLAT_GROUPS = 0.95
_FLAT_STD = 0.02
_TOPPED = 0.85
_NARROW_STD = 0.15


class Tightened(Reply):
    """Level texts that are harder to reach, worst first."""

    levels: Levels


class PruningProposer:
    """Takes out what gives no spread. Needs no meta-judge."""

    name = "pruning"

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """At most one candidate, without the criteria that told nothing apart."""
        flat = [
            c
            for c in context.active.criteria
            if _may_change(context, c) and _gives_no_spread(context.evidence.criteria.get(c.id))
        ]
        if not flat:
            return Proposal((), ())
        why = "; ".join(f"{c.id} gave no spread" for c in flat)
        try:
            rubric = build_candidate(context, by=self.name, rationale=why, without=frozenset(c.id for c in flat))
        except ValidationError as error:
            return Proposal((), (f"pruning: left nothing that awards ({first_line_of(error)})",))
        return Proposal((Candidate(rubric, self.name),), ())


class TighteningProposer(MetaJudgeProposer):
    """Has the meta-judge rewrite the levels of the criterion that most responses top; one candidate at most."""

    name = "tightening"

    async def _propose(self, session: MetaJudgeSession, context: ProposalContext, progress: Progress) -> Proposal:
        figures = context.evidence.criteria
        topped = [c for c in context.active.llm_criteria if c.role is Role.AWARD and _is_topped(figures.get(c.id))]
        if not topped:
            return Proposal((), ())
        chosen = max(topped, key=lambda criterion: figures[criterion.id].mean)
        await progress(Stage.REFINE, f"tightens {chosen.id}")
        levels = "\n".join(f"{n}: {text}" for n, text in enumerate(chosen.levels))
        shown = session.fence("CRITERION", f"{chosen.name}\n{chosen.description}\n{levels}")
        try:
            found = await session.ask("tighten", Tightened, criterion=shown)
            harder = LlmCriterion.model_validate(chosen.model_dump() | {"levels": tuple(found.levels)})
            why = f"most responses topped {chosen.id}"
            rubric = build_candidate(context, by=self.name, rationale=why, changed={chosen.id: harder})
        except (UpstreamError, ValidationError) as error:
            return session.failed(f"dropped ({first_line_of(error)})")
        return Proposal((Candidate(rubric, self.name),), ())


def _may_change(context: ProposalContext, criterion: Criterion) -> bool:
    return isinstance(criterion, LlmCriterion) and criterion.role is not Role.VETO and criterion.id not in context.core


def _gives_no_spread(found: CriterionFigures | None) -> bool:
    if found is None or found.traces < FEWEST_TRACES:
        return False
    return found.flat_groups >= _FLAT_GROUPS and found.std <= _FLAT_STD


def _is_topped(found: CriterionFigures | None) -> bool:
    if found is None or found.traces < FEWEST_TRACES:
        return False
    return found.mean >= _TOPPED and found.std <= _NARROW_STD
