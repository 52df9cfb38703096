"""ART trajectory groups, scored by Regrade instead of RULER."""

from collections.abc import Awaitable, Callable, Sequence

import art

from regrade.adapters.art import score_group


async def gather(
    rollout: Callable[[str], Awaitable[art.Trajectory]], prompts: Sequence[str], run: str = "art-1"
) -> list[art.TrajectoryGroup]:
    """Four scored rollouts for each prompt, for `model.train(groups)`."""
    return await art.gather_trajectory_groups(
        (art.TrajectoryGroup(rollout(prompt) for _ in range(4)) for prompt in prompts),
        after_each=lambda group: score_group(group, "essay_writing", run=run, swallow_exceptions=True),
    )
