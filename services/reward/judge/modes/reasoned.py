"""Mode `reasoned`: a rationale, then a level."""

from services.reward.judge.batch import JudgeBatch, Question
from services.reward.judge.prompt import append_level_question, rationale_conversation


class Reasoned:
    """Has a rationale written about each criterion, and asks for its level in the same conversation.

    Source: the evaluation prompts of MPO, arXiv 2504.20157.
    """

    async def score(self, batch: JudgeBatch) -> None:
        """Two calls a criterion and sample."""
        max_words = batch.limits.rationale_words
        questions = [
            Question(index, (criterion,), rationale_conversation(item, criterion, max_words))
            for index, item in enumerate(batch.items)
            for criterion in item.criteria
        ]
        rationales = await batch.write(questions, max_words, batch.limits.samples)
        await batch.ask_levels(
            [
                Question(q.item, q.criteria, append_level_question(q.conversation, text, q.criteria), text)
                for q, text in rationales
            ]
        )
