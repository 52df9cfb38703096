"""ART: scores a trajectory group where RULER would: `after_each=lambda group: score_group(group, "essay_writing")`.

RULER asks one model for all scores of a group at once, and one score too few loses the group. Here each trajectory is
scored by itself, under one rubric for the group; those that cannot be scored are left out of it.
"""

from typing import Any

from regrade.adapters.chat import split_prompt
from regrade.adapters.core import Scorer, UnscoredError, scoring_config
from regrade.adapters.results import metrics_of
from regrade.contracts import ScoreItem
from regrade.errors import RegradeError

_LEAST = 2


async def score_group(group: Any, task: str | None = None, *, swallow_exceptions: bool = False, **where: Any) -> Any:
    """A new group of the trajectories that have a reward, with figures in their metrics. `where`: see `scoring_config`.

    What a trajectory's reward was before stands in its metrics as `independent_reward`. Raises `RegradeError` where
    fewer than two have a reward; with `swallow_exceptions` the answer is None instead, and ART drops the group.
    """
    try:
        return await _scored(group, Scorer(scoring_config(task=task, **where)))
    except RegradeError:
        if not swallow_exceptions:
            raise
        return None


async def _scored(group: Any, scorer: Scorer) -> Any:
    parted = [split_prompt(trajectory.messages()) for trajectory in group.trajectories]
    items = [ScoreItem(prompt=prompt or "-", completion=rest or "") for prompt, rest in parted]
    if not items:
        return group
    results = (await scorer.score_async(items)).results
    scored = [
        trajectory.model_copy(update={"reward": result.reward, "metrics": _metrics(trajectory, result)})
        for trajectory, result in zip(group.trajectories, results, strict=True)
        if result.reward is not None
    ]
    if len(scored) < min(_LEAST, len(items)):
        error = next(result.error for result in results if result.error is not None)
        raise UnscoredError(error.code, f"{len(items) - len(scored)} of {len(items)}: {error.message}")
    return group.model_copy(update={"trajectories": scored})


def _metrics(trajectory: Any, result: Any) -> dict[str, Any]:
    before = {"independent_reward": trajectory.reward} if trajectory.reward is not None else {}
    return {**trajectory.metrics, **before, **metrics_of(result), "regrade_score": result.reward}
