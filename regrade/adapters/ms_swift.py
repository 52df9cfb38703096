"""ms-swift: reward functions ("ORM" there) for a plugin file, given with `--external_plugins`.

class Regrade(RegradeORM, AsyncORM): ...
orms["regrade"] = Regrade

`RubricVersionORM` as a second function, with `--reward_weights 1 0`, brings the rubric's version into the log.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from regrade.adapters.core import Scorer, rank
from regrade.adapters.trl import TrainerState
from regrade.contracts import ItemResult


class RegradeORM:
    """One reward a completion, or None, which ms-swift leaves out. Mix in before `AsyncORM`."""

    def __init__(self, args: Any = None, **options: Any) -> None:
        super().__init__(args)  # type: ignore[call-arg]
        self._scorer = Scorer(**options)

    async def __call__(
        self,
        completions: Sequence[str],
        *,
        messages: Sequence[Sequence[Mapping[str, Any]]],
        trainer_state: TrainerState | None = None,
        reference: Sequence[Any] | None = None,
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
        return [self._value(result) for result in results]

    def _value(self, result: ItemResult) -> float | None:
        return result.reward


class RubricVersionORM(RegradeORM):
    """The version of the rubric behind each reward. Equal samples share a request, so it scores nothing twice."""

    def _value(self, result: ItemResult) -> float | None:
        return None if result.rubric.version is None else float(result.rubric.version)
