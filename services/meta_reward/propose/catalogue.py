"""The catalogue proposer: turns evidence into checks, without an LLM.

A check is proposed when a share of the policy's completions misses what every trusted original has;
its parameter is what those originals show, less a margin, so that honest text passes.
"""

from collections.abc import Sequence, Set
from typing import NamedTuple

from regrade.contracts import CheckCriterion, Role, Trace
from services.kit.checks.base import TextPair
from services.kit.checks.registry import CHECKS
from services.meta_reward.evidence.text_features import read_text
from services.meta_reward.propose.base import Progress, ProposalContext, build_candidate
from services.meta_reward.types import Candidate, Proposal

_MIN_MISSING_SHARE = 0.02
_MIN_MISSING = 3
"""A hack is answered while it is rare, because one that pays spreads. The gate decides whether a check does harm."""
_WEIGHT = 1.0
_SINGLES = 2
"""The most missed checks that are also proposed alone: in a bundle, a harmful check can hide behind a useful one."""


class CheckProposal(NamedTuple):
    """A check to add, and the share of completions that miss it."""

    criterion: CheckCriterion
    missing: float

    def under_a_free_id(self, taken: Set[str]) -> "CheckProposal":
        """The same, where a criterion of another kind has its id already: `language` may be one for the judge."""
        name = self.criterion.id
        ids = (name, *(f"{name}_check{number}" for number in ("", *range(2, len(taken) + 2))))
        return self._replace(criterion=self.criterion.model_copy(update={"id": next(i for i in ids if i not in taken)}))


class CatalogueProposer:
    """Proposes all needed checks together, and the two most needed alone: a bundle hides which check does harm."""

    name = "catalogue"

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """Candidates that add award checks to the active rubric, most missed first."""
        present = {criterion.check.check for criterion in context.active.check_criteria}
        taken = {criterion.id for criterion in context.active.criteria}
        missing = find_missing_checks(context.window, context.visible)
        proposals = [
            proposal.under_a_free_id(taken) for proposal in missing if proposal.criterion.check.check not in present
        ]
        proposals.sort(key=lambda proposal: proposal.missing, reverse=True)
        if not proposals:
            return Proposal((), ("catalogue: no further check is missed often enough",))
        bundles = [proposals, *([proposal] for proposal in proposals[:_SINGLES])] if len(proposals) > 1 else [proposals]
        return Proposal(tuple(self._candidate(context, bundle) for bundle in bundles), ())

    def _candidate(self, context: ProposalContext, proposals: Sequence[CheckProposal]) -> Candidate:
        why = "; ".join(
            f"{proposal.missing:.0%} of completions miss {proposal.criterion.check.check}" for proposal in proposals
        )
        added = [proposal.criterion for proposal in proposals]
        return Candidate(build_candidate(context, added, by=self.name, rationale=why), self.name)


def find_missing_checks(window: Sequence[Trace], visible: Sequence[TextPair]) -> list[CheckProposal]:
    """Checks that enough completions of the window miss; their parameters come from `visible` trusted pairs."""
    produced = [(read_text(trace.prompt), read_text(trace.completion)) for trace in window]
    fewest = max(_MIN_MISSING_SHARE, _MIN_MISSING / max(1, len(window)))
    proposals = []
    for entry in CHECKS.values():
        need = entry.propose(produced, visible) if entry.propose is not None else None
        if need is not None and need.missing >= fewest:
            criterion = CheckCriterion(
                kind="check",
                id=need.check.check,
                name=entry.title,
                role=Role.AWARD,
                weight=_WEIGHT,
                check=need.check,
            )
            proposals.append(CheckProposal(criterion, need.missing))
    return proposals
