"""Mode `expected`: one constrained token a criterion."""

from services.reward.judge.batch import JudgeBatch, Question
from services.reward.judge.prompt import level_conversation


class Expected:
    """Asks for levels at once, without written text."""

    async def score(self, batch: JudgeBatch) -> None:
        """One call for each `criteria_per_call` criteria."""
        await batch.ask_levels(
            [
                Question(index, criteria, level_conversation(item, criteria))
                for index, item in enumerate(batch.items)
                for criteria in batch.split(item.criteria)
            ]
        )
