"""AReaL: a reward function for its workflows: `RLVRWorkflow(RegradeReward("essay_writing", run="run-1"), ...)`.

AReaL runs it in a few processes of a pool, waits 15 s, tries four times, and makes a silent 0 of four time-outs. So a
call here ends with an exception after 12 s; the next try finds what was scored meanwhile; after four exceptions AReaL
rejects the rollout. `workflow.async_reward_fn = AsyncRegradeReward(...)` goes round the pool, and asks in batches.
"""

from typing import Any

from regrade.adapters.chat import parse_rendered_prompt, strip_end_tokens, text_or_conversation
from regrade.adapters.core import Scorer, reward_of, scoring_config
from regrade.contracts import ScoreItem

_LIMIT_S = 12.0


class RegradeReward:
    """Picklable. Raises `RegradeError` where there is no reward."""

    def __init__(self, task: str | None = None, *, limit_s: float | None = None, **where: Any) -> None:
        self._scorer = Scorer(scoring_config(task=task, limit_s=limit_s or _LIMIT_S, **where))

    def __call__(
        self, prompt: Any, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **row: Any
    ) -> float:
        """The reward of one rollout; the data set's row may hold a `reference`."""
        return reward_of(self._scorer.score_one(_item(prompt, completions, row)), "error")


class AsyncRegradeReward:
    """In the workflow's own event loop, for as long as `patience_s`: nothing here makes a 0 of a time-out."""

    def __init__(self, task: str | None = None, **where: Any) -> None:
        self._scorer = Scorer(scoring_config(task=task, **where))

    async def __call__(
        self, prompt: Any, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **row: Any
    ) -> float:
        """See `RegradeReward`."""
        return reward_of(await self._scorer.score_one_async(_item(prompt, completions, row)), "error")


def _item(prompt: Any, completion: str, row: dict[str, Any]) -> ScoreItem:
    return ScoreItem(
        prompt=parse_rendered_prompt(prompt) if isinstance(prompt, str) else text_or_conversation(prompt),
        completion=strip_end_tokens(completion),
        reference=row.get("reference"),
    )
