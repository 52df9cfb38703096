"""Pairwise elicitation: what the better of two completions has that the rubric does not ask for.

Criteria elicited from pairs beat those from single responses (OnlineRubrics, arXiv 2510.07284), and pairs of great
responses bring criteria that separate the top (arXiv 2509.21500). The user's labelled pairs come first.
"""

from collections.abc import Awaitable
from typing import NamedTuple

from regrade.contracts import Stage, as_text
from services.meta_reward.propose.base import Progress
from services.meta_reward.propose.meta_judge_session import MetaJudgeProposer, MetaJudgeSession, Refinement
from services.meta_reward.types import Proposal

_MAX_LABELLED = 4
"""Labelled pairs are the same in every cycle, so a few of them leave the sampled pairs their weight."""


class Pair(NamedTuple):
    """Two responses to a task."""

    prompt: str
    better: str
    worse: str


class PairwiseProposer(MetaJudgeProposer):
    """Asks about each pair, and merges the refinements into one candidate; none without a pair."""

    name = "pairwise"

    async def _propose(self, session: MetaJudgeSession, progress: Progress) -> Proposal:
        context = session.context
        pairs = [Pair(p.prompt, p.better, p.worse) for p in context.labelled[:_MAX_LABELLED]]
        pairs += [Pair(as_text(a.prompt), as_text(a.completion), as_text(b.completion)) for a, b in context.pairs]
        if not pairs:
            return Proposal(notes=("pairwise: the sample holds no pair",))
        await progress(Stage.REFINE, f"{len(pairs)} pairs")
        answers = await session.ask_each("pair", pairs, lambda pair: _compare(session, pair))
        refinements = [answer for answer in answers if answer is not None]
        await progress(Stage.MERGE, f"{len(refinements)} refinements")
        return await session.merge(refinements, "elicited from pairs")


def _compare(session: MetaJudgeSession, pair: Pair) -> Awaitable[Refinement]:
    return session.ask("pair", Refinement, case=session.case(*pair))
