"""Candidates are scored where everything is scored: by the reward service, as shadow requests."""

from collections.abc import Sequence

from regrade import RewardClient, Rubric, ScoreItem
from services.meta_reward.gate import Scorer


def shadow_scorer(client: RewardClient, batch: int) -> Scorer:
    """A scorer that sends `batch` items a request, one request after another."""

    async def score(task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
        rewards: list[float | None] = []
        for start in range(0, len(items), batch):
            response = await client.shadow(task, rubric, items[start : start + batch])
            rewards.extend(result.reward for result in response.results)
        return rewards

    return score
