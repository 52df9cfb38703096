"""From criterion scores to a reward: one formula for every rubric, always in [0, 1] (I3). Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from regrade.contracts import CheckCriterion, Criterion, Role, Rubric


class Aggregate(NamedTuple):
    """A reward in [0, 1], the weighted sum before offset and clipping, and whether a veto made the reward 0."""

    reward: float
    raw: float
    vetoed: bool


def fault(criterion: Criterion, score: float) -> float:
    """How far the fault of a deduct or veto is present: an LLM criterion scores the fault, a check its absence."""
    return 1.0 - score if isinstance(criterion, CheckCriterion) else score


def fires(criterion: Criterion, score: float) -> bool:
    """Whether a veto fires at this score."""
    return criterion.threshold is not None and fault(criterion, score) >= criterion.threshold


def aggregate(rubric: Rubric, scores: Mapping[str, float]) -> Aggregate:
    """The reward of one item. Every criterion must have its score: a missing one raises `KeyError`."""
    total = award = 0.0
    vetoed = False
    for criterion in rubric.criteria:
        score = scores[criterion.id]
        if criterion.role is Role.AWARD:
            total += criterion.weight * score
            award += criterion.weight
        elif criterion.role is Role.DEDUCT:
            total -= criterion.weight * fault(criterion, score)
        else:
            vetoed = vetoed or fires(criterion, score)
    raw = total / award
    reward = 0.0 if vetoed else min(1.0, max(0.0, raw + rubric.offset))
    return Aggregate(reward, raw, vetoed)
