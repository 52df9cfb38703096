"""What a proposer is given, and what it gives back."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import NamedTuple, Protocol

from redis.exceptions import RedisError

from regrade.contracts import Criterion, Evidence, LabelledPair, LlmCriterion, Role, Rubric, Stage, Trace
from services.meta_reward.types import Proposal

log = logging.getLogger(__name__)

DEDUCT_FLOOR = 0.1
_ROUNDING = 1.0 - 1e-9

Progress = Callable[[Stage, str], Awaitable[None]]


class ProposalContext(NamedTuple):
    """What a proposer knows. `visible` are (prompt, completion) of the trusted originals it may see.

    `sample` is what the meta-judge may be shown of the window; `pairs` are those of it drawn in twos, the better first.
    `labelled` are the user's pairs it may see, `core` the ids of criteria that stay, whatever they do.
    """

    cycle: str
    meta_role: str
    visible: Sequence[tuple[str, str]]
    active: Rubric
    evidence: Evidence
    window: Sequence[Trace]
    sample: Sequence[Trace]
    pairs: Sequence[tuple[Trace, Trace]] = ()
    labelled: Sequence[LabelledPair] = ()
    core: Set[str] = frozenset()
    max_llm_criteria: int = 8
    guided: bool = False
    """The line is a scope of a depth task: its guidelines evolve, criteria are the task's."""


class Proposer(Protocol):
    """A source of candidates. A proposer that fails costs its own proposal, nothing else."""

    name: str

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """Candidates for this brief, none if there is nothing to propose."""
        ...


async def run_proposer(proposer: Proposer, context: ProposalContext, progress: Progress) -> Proposal:
    """What a proposer answers; where it breaks, that, for the window that broke it would break every cycle.

    Raises `RedisError`: that is no fault of the proposer's, and the stage is tried again.
    """
    try:
        return await proposer.propose(context, progress)
    except RedisError:
        raise
    except Exception as error:
        log.exception("a proposer broke", extra={"cycle": context.cycle, "proposer": proposer.name})
        return Proposal((), (), failed=f"{proposer.name}: broke with {type(error).__name__}; the log has it")


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
    """A candidate from the active rubric: criteria changed (by id), left out and added, another preamble.

    Raises `ValidationError`. It has no offset: that is calibration's to set.

    The core and all guards (checks and vetoes) persist. Of the other LLM criteria at most so many stay that the
    judge's budget holds: those that spread the most (RLER, arXiv 2511.19399).
    """
    active = context.active
    kept = [changed.get(criterion.id, criterion) for criterion in active.criteria if criterion.id not in without]
    too_many = sum(isinstance(c, LlmCriterion) for c in (*kept, *added)) - context.max_llm_criteria
    movable = [c for c in kept if isinstance(c, LlmCriterion) and c.role is not Role.VETO and c.id not in context.core]
    least = sorted(movable, key=lambda criterion: _spread(context.evidence, criterion.id))[: max(0, too_many)]
    gone = {criterion.id for criterion in least}
    return Rubric(
        lineage=active.lineage,
        scope=active.scope,
        parent=active.digest,
        preamble=active.preamble if preamble is None else preamble,
        criteria=enforce_deduct_floor([*(c for c in kept if c.id not in gone), *added]),
        created_by=by,
        rationale=rationale,
    )


def _spread(evidence: Evidence, name: str) -> float:
    """How far a criterion's scores spread; one that was not measured yet gets its chance."""
    return evidence.criteria[name].std if name in evidence.criteria else float("inf")


def enforce_deduct_floor(criteria: Sequence[Criterion]) -> tuple[Criterion, ...]:
    """No fault weighs less than a share of what can be won: what is added does not wash it out.

    Presence criteria multiply and absence criteria are what a policy is held by (arXiv 2605.12474).
    """
    award = sum(c.weight for c in criteria if c.role is Role.AWARD)
    faults = [c for c in criteria if c.role is Role.DEDUCT]
    floor = min(DEDUCT_FLOOR, 1.0 / len(faults)) * award if faults else 0.0
    weights = {c.id: max(c.weight, floor) for c in faults}
    excess = sum(weights.values()) / award if award > 0.0 else 0.0
    scale = _ROUNDING / excess if excess > _ROUNDING else 1.0
    return tuple(
        c
        if c.role is not Role.DEDUCT or c.weight == weights[c.id] * scale
        else c.model_copy(update={"weight": weights[c.id] * scale})
        for c in criteria
    )
