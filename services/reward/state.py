"""What the reward app holds while it runs, made once in its lifespan."""

from dataclasses import dataclass

from redis.asyncio import Redis

from services.kit.rubrics import RubricStore
from services.reward.engine.probe import EngineHandle
from services.reward.service import ScoreService


@dataclass(frozen=True, slots=True)
class RewardState:
    """One of each per process."""

    redis: Redis
    store: RubricStore
    engine: EngineHandle
    service: ScoreService
