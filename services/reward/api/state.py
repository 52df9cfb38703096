"""What the routes and the lifespan of the reward app share."""

from dataclasses import dataclass

from redis.asyncio import Redis

from services.kit.store.rubric_store import RubricStore
from services.reward.api.candidates import Candidates
from services.reward.api.micro_batching import RetryingBatcher
from services.reward.api.quotas import Quotas
from services.reward.judge.engine.discovery import EngineHandle
from services.reward.persistence.circuit_breaker import CircuitBreaker
from services.reward.persistence.recovery import Recovery
from services.reward.persistence.replica_cache import ActiveRubricCache
from services.reward.persistence.spool import Spool
from services.reward.scoring.pipeline import ScoringPipeline


@dataclass(frozen=True, slots=True)
class RewardState:
    """One of each per process."""

    redis: Redis
    store: RubricStore
    engine: EngineHandle
    pipeline: ScoringPipeline
    batcher: RetryingBatcher
    circuit: CircuitBreaker
    actives: ActiveRubricCache
    spool: Spool | None
    recovery: Recovery
    quotas: Quotas
    candidates: Candidates
