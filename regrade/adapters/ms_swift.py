"""ms-swift: reward functions ("ORM" there) for a plugin file, given with `--external_plugins`.

class Regrade(RegradeORM, AsyncORM): ...
orms["regrade"] = Regrade

`RubricVersionORM` as a second function, with `--reward_weights 1 0`, brings the rubric's version into the log.

ms-swift adds rewards with `nansum`: a single None counts as 0.0 and gets a large negative advantage. A group in which
every reward is None has advantages of 0, and `--dynamic_sample true` replaces it.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from regrade.adapters.core import Scorer, UnscoredError, rank
from regrade.adapters.trl import TrainerState
from regrade.contracts import ItemResult

_SPLIT = (
    "the rest of its group is on another rank, so the group cannot be left out: make per_device_train_batch_size x "
    "steps_per_generation a multiple of num_generations"
)


class RegradeORM:
    """One reward a completion; None for all completions of a group in which one has no reward.

    Mix in before `AsyncORM`. Raises `UnscoredError` where the function does not see the whole group, because its
    completions are on several ranks, and always with `unscored="error"`.
    """

    unscored: Literal["group", "error"] = "group"
    """A subclass may set it."""

    def __init__(self, args: Any = None, **options: Any) -> None:
        super().__init__(args)  # type: ignore[call-arg]
        self._group_size: int | None = getattr(args, "num_generations", None)
        self._scorer = Scorer(**options)

    async def __call__(
        self,
        completions: Sequence[str],
        *,
        messages: Sequence[Sequence[Mapping[str, Any]]],
        trainer_state: TrainerState | None = None,
        reference: Sequence[Any] | None = None,
        prompt_id: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score a batch; each row of `messages` ends with the completion, `reference` is a column of the dataset."""
        step = trainer_state.global_step if trainer_state is not None and self._scorer.config.run else None
        items = [
            {
                "id": f"{rank()}.{index}",
                "prompt": row[:-1],
                "completion": completion,
                "reference": reference[index] if reference is not None else None,
            }
            for index, (completion, row) in enumerate(zip(completions, messages, strict=True))
        ]
        results = await asyncio.gather(*(self._scorer.score_one(item, step=step) for item in items))
        groups = [id_ or str(row[:-1]) for id_, row in zip(prompt_id or [None] * len(items), messages, strict=True)]
        return self._values(results, groups)

    def _values(self, results: Sequence[ItemResult], groups: Sequence[str]) -> list[float | None]:
        sizes = Counter(groups)
        unscored = {group: result.error for result, group in zip(results, groups, strict=True) if result.error}
        for group, error in unscored.items():
            if self.unscored == "error":
                raise UnscoredError(error.code, error.message)
            if self._group_size is None or sizes[group] % self._group_size:
                raise UnscoredError(error.code, f"{error.message} ({_SPLIT})")
        return [None if group in unscored else result.reward for result, group in zip(results, groups, strict=True)]


class RubricVersionORM(RegradeORM):
    """The version of the rubric behind each reward. Equal samples share a request, so it scores nothing twice."""

    def _values(self, results: Sequence[ItemResult], groups: Sequence[str]) -> list[float | None]:
        return [None if result.rubric.version is None else float(result.rubric.version) for result in results]
