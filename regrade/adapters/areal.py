"""AReaL: a reward function for its workflows: `RLVRWorkflow(RegradeReward("essay_writing", run="run-1"), ...)`.

AReaL calls it in a pool of processes with a timeout of 15 s and four tries, and turns four timeouts into a reward of 0
without an error. A call here therefore raises after 12 s; the next try finds what was scored in between, and after
four exceptions AReaL rejects the rollout. `workflow.async_reward_fn = AsyncRegradeReward(...)` bypasses the pool.
"""

from typing import Any

from regrade.adapters.chat import parse_prompt
from regrade.adapters.core import Scorer, reward_of
from regrade.control_tokens import strip_end_tokens
from regrade.items import ItemFields

_LIMIT_S = 12.0


class RegradeReward:
    """Reward function for AReaL's process pool; picklable. Raises `RegradeError` where there is no reward."""

    def __init__(self, task: str | None = None, *, limit_s: float | None = None, **options: Any) -> None:
        self._scorer = Scorer(task=task, limit_s=limit_s or _LIMIT_S, **options)

    def __call__(
        self, prompt: Any, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **columns: Any
    ) -> float:
        """The reward of one rollout; `reference` is the one column of the dataset that is used."""
        return reward_of(self._scorer.score_one(_item(prompt, completions, columns)).result(), "error")


class AsyncRegradeReward:
    """Reward function for the workflow's own event loop, which has no timeout: retries for `patience_s`."""

    def __init__(self, task: str | None = None, **options: Any) -> None:
        self._scorer = Scorer(task=task, **options)

    async def __call__(
        self, prompt: Any, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **columns: Any
    ) -> float:
        """See `RegradeReward`."""
        return reward_of(await self._scorer.score_one(_item(prompt, completions, columns)), "error")


def _item(prompt: Any, completion: Any, columns: dict[str, Any]) -> ItemFields:
    return {
        "prompt": parse_prompt(prompt),
        "completion": strip_end_tokens(completion),
        "reference": columns.get("reference"),
    }
