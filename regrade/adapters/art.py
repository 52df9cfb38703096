"""ART: scores a trajectory group in place of RULER: `after_each=lambda group: score_group(group, "essay_writing")`.

RULER asks one model for all scores of a group at once and loses the group if one score is missing. Here each
trajectory is scored by itself, all by one rubric; those that cannot be scored are left out.
"""

from typing import Any

from regrade.adapters.chat import split_prompt
from regrade.adapters.core import Scorer, UnscoredError
from regrade.adapters.results import metrics_of
from regrade.contracts import ItemResult
from regrade.errors import RegradeError

_MIN_TRAJECTORIES = 2
"""Advantages need two rewards to compare."""


async def score_group(group: Any, task: str | None = None, *, swallow_exceptions: bool = False, **options: Any) -> Any:
    """A new group of the trajectories that have a reward; `options` are those of `ScoringConfig`.

    A trajectory's earlier reward becomes its metric `independent_reward`. With fewer than two rewards it raises
    `RegradeError`, or with `swallow_exceptions` returns None, and ART drops the group.
    """
    try:
        return await _scored(group, Scorer(task=task, **options))
    except RegradeError:
        if not swallow_exceptions:
            raise
        return None


async def _scored(group: Any, scorer: Scorer) -> Any:
    conversations = [split_prompt(trajectory.messages()) for trajectory in group.trajectories]
    items = [{"prompt": prompt or "-", "completion": completion or ""} for prompt, completion in conversations]
    if not items:
        return group
    results = (await scorer.score(items)).results
    scored = [
        trajectory.model_copy(update={"reward": result.reward, "metrics": _metrics(trajectory, result)})
        for trajectory, result in zip(group.trajectories, results, strict=True)
        if result.reward is not None
    ]
    if len(scored) < min(_MIN_TRAJECTORIES, len(items)):
        error = next(result.error for result in results if result.error is not None)
        raise UnscoredError(error.code, f"{len(items) - len(scored)} of {len(items)} not scored: {error.message}")
    return group.model_copy(update={"trajectories": scored})


def _metrics(trajectory: Any, result: ItemResult) -> dict[str, Any]:
    earlier = {"independent_reward": trajectory.reward} if trajectory.reward is not None else {}
    return {**trajectory.metrics, **earlier, **metrics_of(result), "regrade_score": result.reward}
