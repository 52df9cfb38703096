"""What the reward app holds while it runs, made once in its lifespan."""

from dataclasses import dataclass

from redis.asyncio import Redis

from services.kit.circuit import Circuit
from services.kit.rubrics import RubricStore
from services.reward.engine.probe import EngineHandle
from services.reward.known import ActiveRubrics
from services.reward.recovery import Recovery
from services.reward.service import ScoreService
from services.reward.spool import Spool
from services.reward.tenants import Quotas
from services.reward.together import Together


@dataclass(frozen=True, slots=True)
class RewardState:
    """One of each per process."""

    redis: Redis
    store: RubricStore
    engine: EngineHandle
    service: ScoreService
    together: Together
    circuit: Circuit
    actives: ActiveRubrics
    spool: Spool | None
    recovery: Recovery
    quotas: Quotas
