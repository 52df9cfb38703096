"""Mode `planned`: a plan for the task, its execution on each response, then levels."""

from services.reward.judge.batch import JudgeBatch, Question
from services.reward.judge.prompt import append_level_question, execution_conversation, plan_conversation


class Planned:
    """Has a plan written without sight of the response, so that a group shares it, and executed on each response.

    Source: MPO's procedure for mathematics, arXiv 2504.20157.
    """

    async def score(self, batch: JudgeBatch) -> None:
        """Two calls an item, and one for each `criteria_per_call` criteria and sample."""
        limits = batch.limits
        plans = await batch.write(
            [
                Question(index, item.criteria, plan_conversation(item, limits.plan_words))
                for index, item in enumerate(batch.items)
                if item.criteria
            ],
            limits.plan_words,
        )
        questions = [
            q._replace(
                conversation=execution_conversation(batch.items[q.item], plan, limits.rationale_words, batch.fence_key)
            )
            for q, plan in plans
        ]
        executions = await batch.write(questions, limits.rationale_words, limits.samples)
        await batch.ask_levels(
            [
                Question(q.item, criteria, append_level_question(q.conversation, text, criteria), text)
                for q, text in executions
                for criteria in batch.split(q.criteria)
            ]
        )
