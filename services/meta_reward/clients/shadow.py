"""Scores candidates by shadow requests to the reward service, so that judging has one implementation."""

from collections.abc import Awaitable, Callable, Sequence

from regrade import RewardClient, Rubric, ScoreItem, ServiceUnavailableError
from regrade.contracts import ErrorCode, ItemResult, unbroken_rubric

ShadowScorer = Callable[[str, Rubric, Sequence[ScoreItem]], Awaitable[list[float | None]]]
"""Scores items of a task by a rubric; gives a reward for each, or None where an item cannot be scored."""


async def shadow_results(
    client: RewardClient, task: str, rubric: Rubric, items: Sequence[ScoreItem], batch: int
) -> list[ItemResult]:
    """Results of items in order, requested in batches, one after another.

    Raises `ServiceUnavailableError` when the judge is down; then nothing is measured, and the cycle is retried.
    """
    results: list[ItemResult] = []
    rubric = unbroken_rubric(rubric)  # one of before line ends were refused is judged the same
    for start in range(0, len(items), batch):
        response = await client.shadow(task, rubric, items[start : start + batch])
        for result in response.results:
            reward_of(result)
        results.extend(response.results)
    return results


def shadow_scorer(client: RewardClient, batch: int) -> ShadowScorer:
    """A scorer that sends `batch` items per request. Raises as `shadow_results`."""

    async def score(task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
        return [reward_of(result) for result in await shadow_results(client, task, rubric, items, batch)]

    return score


def reward_of(result: ItemResult) -> float | None:
    """The reward, or None for an item that can't be scored. Raises `ServiceUnavailableError` when the judge is down."""
    if result.error is not None and result.error.code is ErrorCode.JUDGE_UNAVAILABLE:
        raise ServiceUnavailableError(result.error.code, result.error.message)
    return result.reward
