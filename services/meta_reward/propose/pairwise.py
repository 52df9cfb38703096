"""Pairwise elicitation: what does the better of two have that the rubric does not ask about?

Criteria elicited from pairs beat those from single responses (OnlineRubrics, arXiv 2510.07284), and pairs of two
great responses bring those that separate the top (arXiv 2509.21500). People's labelled pairs come first.
"""

from collections.abc import Awaitable
from typing import NamedTuple

from regrade.contracts import Stage, as_text
from services.meta_reward.propose.base import Progress, ProposalContext
from services.meta_reward.propose.meta_judge_session import MetaJudgeProposer, MetaJudgeSession, Refinement
from services.meta_reward.types import Proposal

_MOST_LABELLED = 4


class Pair(NamedTuple):
    """Two responses to a task, the better first."""

    prompt: str
    better: str
    worse: str


class PairwiseProposer(MetaJudgeProposer):
    """Asks about each pair on its own, and merges what comes of it into one candidate; none without a pair."""

    name = "pairwise"

    async def _propose(self, session: MetaJudgeSession, context: ProposalContext, progress: Progress) -> Proposal:
        pairs = [Pair(p.prompt, p.better, p.worse) for p in context.labelled[:_MOST_LABELLED]]
        pairs += [Pair(as_text(a.prompt), as_text(a.completion), as_text(b.completion)) for a, b in context.pairs]
        if not pairs:
            return Proposal((), ("pairwise: the sample holds no pair",))
        await progress(Stage.REFINE, f"{len(pairs)} pairs")
        refined = await session.gather("pair", pairs, lambda pair: _compare(session, pair))
        refinements = [refinement for refinement in refined if refinement is not None]
        await progress(Stage.MERGE, f"{len(refinements)} refinements")
        return await session.merge(refinements, "elicited from pairs")


def _compare(session: MetaJudgeSession, pair: Pair) -> Awaitable[Refinement]:
    return session.ask("pair", Refinement, case=session.case(*pair))
