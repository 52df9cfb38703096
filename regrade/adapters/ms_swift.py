"""ms-swift: a plugin file for `--external_plugins`, since its reward functions are classes of its own.

class Regrade(RegradeORM, AsyncORM): ...
orms["regrade"] = Regrade

`RubricVersionORM`, listed behind it with `--reward_weights 1 0`, brings the rubric's version into the log.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from regrade.adapters.chat import to_conversation
from regrade.adapters.core import Scorer, rank, scoring_config
from regrade.adapters.trl import TrainerState
from regrade.contracts import ItemResult, ScoreItem


class RegradeORM:
    """One reward a completion, None where there is none: ms-swift leaves that out. Configured by the environment."""

    def __init__(self, args: Any = None, **where: Any) -> None:
        super().__init__(args)  # type: ignore[call-arg]
        self._scorer = Scorer(scoring_config(**where))

    async def __call__(
        self,
        completions: Sequence[str],
        *,
        messages: Sequence[Sequence[Mapping[str, Any]]],
        trainer_state: TrainerState | None = None,
        reference: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score a batch; a row's `messages` end with the completion, `reference` is a column of the data set."""
        step = trainer_state.global_step if trainer_state is not None and self._scorer.config.run else None
        items = [
            ScoreItem(
                id=f"{rank()}.{index}",
                prompt=to_conversation(row[:-1]),
                completion=completion,
                reference=reference[index] if reference is not None else None,
            )
            for index, (completion, row) in enumerate(zip(completions, messages, strict=True))
        ]
        results = await asyncio.gather(*(self._scorer.score_one_async(item, step=step) for item in items))
        return [self._told(result) for result in results]

    def _told(self, result: ItemResult) -> float | None:
        return result.reward


class RubricVersionORM(RegradeORM):
    """The version of the rubric that each reward came from. It asks for nothing more: equal samples share a call."""

    def _told(self, result: ItemResult) -> float | None:
        return None if result.rubric.version is None else float(result.rubric.version)
