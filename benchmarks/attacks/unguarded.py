"""The service's own judge without what stands before it: it is shown what the guards would keep from it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from regrade.contracts import Mode, Purpose, Rubric
from regrade.tasks import TaskPack
from services.kit.results import ItemError
from services.kit.store.redis import connect
from services.reward.app import judge_limits
from services.reward.items.text import prepare_text
from services.reward.judge.admission import Admission
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine_client import EngineClient, JudgeContext
from services.reward.judge.judge import Judge, JudgeItem
from services.reward.judge.prompt import fenced, prompt_parts, system_turn
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
        shown = prompt_parts(
            system=system_turn(self._pack.judge_role, self._rubric, FENCE_KEY),
            task=fenced("TASK", prepare_text(prompt), FENCE_KEY),
            reference=None,
            completion=prepare_text(completion),
            fence_key=FENCE_KEY,
        )
        context = JudgeContext(self._engine, self._pack.name, Purpose.SHADOW, FENCE_KEY)
        (item_scores,) = await self._judge.judge(context, mode, [JudgeItem(shown, self._rubric.llm_criteria)])
        scores = {}
        for name, found in item_scores.judgements.items():
            if isinstance(found, ItemError):
                return None
            scores[name] = found.score
        return aggregate(self._rubric, scores).reward


@asynccontextmanager
async def unguarded(engine: Engine, redis_url: str, pack: TaskPack) -> AsyncIterator[Unguarded]:
    """One with the service's usual limits, its judgements stored in that Redis."""
    settings = RewardSettings()
    redis, circuit = connect(SecretStr(redis_url)), CircuitBreaker()
    room = Admission(capacity=settings.judge_in_flight, shadow_capacity=settings.judge_in_flight, queue=1)
    calls = EngineClient(JudgementStore(redis, circuit), room, RewardMetrics(CollectorRegistry()))
    try:
        yield Unguarded(Judge(calls, judge_limits(settings)), engine, pack)
    finally:
        await calls.aclose()
        await circuit.aclose()
        await redis.aclose()
