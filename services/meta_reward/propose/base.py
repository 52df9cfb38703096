"""What a proposer receives, and how it builds candidates from the active rubric."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import NamedTuple, Protocol

from redis.exceptions import RedisError

from regrade.contracts import (
    Criterion,
    Evidence,
    LabelledPair,
    LlmCriterion,
    Role,
    Rubric,
    Stage,
    Trace,
    unbroken_rubric,
)
from services.meta_reward.types import Proposal

log = logging.getLogger(__name__)

DEDUCT_FLOOR = 0.1
"""Smallest weight of a deduct, as a share of the award weight; below a tenth, new awards would outweigh any fault."""
_BELOW_ONE = 1.0 - 1e-9
"""A rubric's deducts may not outweigh its awards; this leaves room for rounding."""

Progress = Callable[[Stage, str], Awaitable[None]]


class ProposalContext(NamedTuple):
    """What a proposer may use."""

    cycle: str
    meta_role: str
    """The role that the task gives the meta-judge."""
    visible: Sequence[tuple[str, str]]
    """(prompt, completion) of the trusted originals that the gate does not measure on."""
    active: Rubric
    evidence: Evidence
    window: Sequence[Trace]
    sample: Sequence[Trace]
    """The traces of the window that the meta-judge may read."""
    pairs: Sequence[tuple[Trace, Trace]] = ()
    """The pairs of the sample, the better rewarded trace first."""
    labelled: Sequence[LabelledPair] = ()
    """The user's pairs that the gate does not measure on."""
    core: Set[str] = frozenset()
    """Ids of the starting rubric's criteria, which always stay."""
    max_llm_criteria: int = 8
    guided: bool = False
    """Whether the lineage is a scope of a depth task, whose guidelines evolve while the criteria stay."""


class Proposer(Protocol):
    """A source of candidates."""

    name: str

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """Candidates for this context; none if there is nothing to propose."""
        ...


async def run_proposer(proposer: Proposer, context: ProposalContext, progress: Progress) -> Proposal:
    """The proposal, or a failed one if the proposer raises: the same window would fail every cycle again.

    Raises `RedisError`, which is no fault of the proposer's; the stage is retried.
    """
    try:
        return await proposer.propose(context, progress)
    except RedisError:
        raise
    except Exception as error:
        log.exception("a proposer failed", extra={"cycle": context.cycle, "proposer": proposer.name})
        return Proposal(failed=f"{proposer.name}: raised {type(error).__name__}; see the log")


def build_candidate(
    context: ProposalContext,
    added: Sequence[Criterion] = (),
    *,
    by: str,
    rationale: str,
    changed: Mapping[str, Criterion] = MappingProxyType({}),
    without: Set[str] = frozenset(),
    preamble: str | None = None,
) -> Rubric:
    """The active rubric with criteria changed (by id), left out and added, or with another preamble; without an offset.

    The core and all guards (checks and vetoes) stay. Of the other LLM criteria, those with the most spread stay,
    as many as `max_llm_criteria` allows (RLER, arXiv 2511.19399). Raises `ValidationError`.
    """
    active = context.active
    retained = [changed.get(criterion.id, criterion) for criterion in active.criteria if criterion.id not in without]
    excess = sum(isinstance(c, LlmCriterion) for c in (*retained, *added)) - context.max_llm_criteria
    by_spread = sorted(
        (c for c in retained if is_replaceable(context, c)), key=lambda c: _spread(context.evidence, c.id)
    )
    dropped = {criterion.id for criterion in by_spread[: max(0, excess)]}
    rubric = Rubric(
        lineage=active.lineage,
        scope=active.scope,
        parent=active.digest,
        preamble=active.preamble if preamble is None else preamble,
        criteria=enforce_deduct_floor([*(c for c in retained if c.id not in dropped), *added]),
        created_by=by,
        rationale=rationale,
    )
    return unbroken_rubric(rubric)


def is_replaceable(context: ProposalContext, criterion: Criterion) -> bool:
    """Whether a candidate may drop it: not the core, a check or a veto."""
    return isinstance(criterion, LlmCriterion) and criterion.role is not Role.VETO and criterion.id not in context.core


def _spread(evidence: Evidence, criterion_id: str) -> float:
    """Standard deviation of its scores; infinite for one that has not been measured yet, so that it stays."""
    return evidence.criteria[criterion_id].std if criterion_id in evidence.criteria else float("inf")


def enforce_deduct_floor(criteria: Sequence[Criterion]) -> tuple[Criterion, ...]:
    """Raise each deduct to the floor, so that new awards cannot dilute it; together they stay below the awards.

    Awards multiply over cycles, while deducts are what constrains a policy (arXiv 2605.12474).
    """
    award = sum(c.weight for c in criteria if c.role is Role.AWARD)
    deducts = [c for c in criteria if c.role is Role.DEDUCT]
    floor = min(DEDUCT_FLOOR, 1.0 / len(deducts)) * award if deducts else 0.0
    raised = {c.id: max(c.weight, floor) for c in deducts}
    share = sum(raised.values()) / award if award > 0.0 else 0.0
    scale = _BELOW_ONE / share if share > _BELOW_ONE else 1.0
    weights = {name: weight * scale for name, weight in raised.items()}
    return tuple(
        c.model_copy(update={"weight": weights[c.id]}) if weights.get(c.id, c.weight) != c.weight else c
        for c in criteria
    )
