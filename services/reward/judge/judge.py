"""The judge: scores of the LLM criteria of items, reached as the requested mode prescribes."""

from collections.abc import Sequence

from regrade.contracts import Mode
from services.reward.judge.batch import ItemScores, JudgeBatch, JudgeLimits
from services.reward.judge.engine_client import EngineClient, JudgeContext
from services.reward.judge.modes import judge_mode
from services.reward.judge.prompt import JudgeItem
from services.reward.judge.special_tokens import respelt_items


class Judge:
    """Scores batches of items through one engine client."""

    def __init__(self, client: EngineClient, limits: JudgeLimits) -> None:
        self._client = client
        self._limits = limits

    async def judge(self, context: JudgeContext, mode: Mode, items: Sequence[JudgeItem]) -> list[ItemScores]:
        """Each item's scores, in order. A failed engine call is an error of its criteria alone."""
        safe = await respelt_items(context.engine, items)
        batch = JudgeBatch(self._client, context, self._limits, safe)
        await judge_mode(mode).score(batch)
        return [
            scores._replace(respelt=item.response != given.response)
            for scores, item, given in zip(batch.scores(), safe, items, strict=True)
        ]

    @property
    def pause_s(self) -> float:
        """Seconds for which the engine has asked for no more requests; 0 for none."""
        return self._client.pause_s

    async def aclose(self) -> None:
        """Cancel the engine calls in flight."""
        await self._client.aclose()
