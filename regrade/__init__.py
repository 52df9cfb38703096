"""Regrade: a reward service for RL post-training whose grading rubric re-grades itself."""

from regrade.client import BlockingRewardClient, RewardClient
from regrade.contracts import Rubric, ScoreItem, ScoreRequest, ScoreResponse
from regrade.errors import (
    AccessError,
    ConfigurationError,
    PinConflictError,
    RegradeError,
    RequestError,
    ServiceUnavailableError,
    TooLargeError,
)

__all__ = [
    "AccessError",
    "BlockingRewardClient",
    "ConfigurationError",
    "PinConflictError",
    "RegradeError",
    "RequestError",
    "RewardClient",
    "Rubric",
    "ScoreItem",
    "ScoreRequest",
    "ScoreResponse",
    "ServiceUnavailableError",
    "TooLargeError",
]
