"""The service's judge without the guards before it, so that it scores texts that the guards would stop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from regrade.contracts import Mode, Purpose, Rubric
from regrade.tasks import TaskPack
from services.kit.store.redis import connect
from services.reward.app import judge_limits
from services.reward.items.text import prepare_text
from services.reward.judge.admission import Admission
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine_client import EngineClient, JudgeContext
from services.reward.judge.judge import Judge
from services.reward.judge.prompt import fenced, judge_item, system_turn
from services.reward.metrics import RewardMetrics
from services.reward.persistence.circuit_breaker import CircuitBreaker
from services.reward.persistence.judgement_cache import JudgementStore
from services.reward.scoring.aggregate import aggregate
from services.reward.settings import RewardSettings
from tests.support.judge_conversations import FENCE_KEY


class Unguarded:
    """Judges texts of a task by the LLM criteria of its starting rubric."""

    def __init__(self, judge: Judge, engine: Engine, pack: TaskPack) -> None:
        self._judge = judge
        self._engine = engine
        self._pack = pack
        self._rubric = Rubric(criteria=pack.starting_rubric.llm_criteria)

    async def reward(self, mode: Mode, prompt: str, completion: str) -> float | None:
        """The reward; None where the engine gives no usable answer."""
        item = judge_item(
            system=system_turn(self._pack.judge_role, self._rubric, FENCE_KEY),
            task=fenced("TASK", prepare_text(prompt), FENCE_KEY),
            reference=None,
            completion=prepare_text(completion),
            criteria=self._rubric.llm_criteria,
            fence_key=FENCE_KEY,
        )
        context = JudgeContext(self._engine, self._pack.name, Purpose.SHADOW, FENCE_KEY)
        (judged,) = await self._judge.judge(context, mode, [item])
        if judged.error is not None:
            return None
        scores = {name: entry.score for name, entry in judged.scores.items() if entry.score is not None}
        return aggregate(self._rubric, scores).reward


@asynccontextmanager
async def unguarded(engine: Engine, redis_url: str, pack: TaskPack) -> AsyncIterator[Unguarded]:
    """An `Unguarded` with the service's default limits, its judgements stored in that Redis."""
    settings = RewardSettings()
    redis, circuit = connect(SecretStr(redis_url)), CircuitBreaker()
    admission = Admission(capacity=settings.judge_in_flight, shadow_capacity=settings.judge_in_flight, queue=1)
    client = EngineClient(JudgementStore(redis, circuit), admission, RewardMetrics(CollectorRegistry()))
    try:
        yield Unguarded(Judge(client, judge_limits(settings)), engine, pack)
    finally:
        await client.aclose()
        await circuit.aclose()
        await redis.aclose()
