"""What the service opens once per process and passes to routes, workers and cycles."""

from collections.abc import Sequence
from typing import NamedTuple

from regrade import RewardClient
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.meta_reward.propose.base import Proposer
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.stores.audits import AuditStore
from services.meta_reward.stores.checkpoints import CheckpointStore
from services.meta_reward.stores.status import StatusStore


class ServiceDeps(NamedTuple):
    """The dependencies of routes, console, workers and cycles; `audits` is None where nothing is audited."""

    store: RubricStore
    log: TraceLog
    status_store: StatusStore
    checkpoints: CheckpointStore
    anchors: AnchorStore
    client: RewardClient
    proposers: Sequence[Proposer]
    settings: MetaRewardSettings
    audits: AuditStore | None = None
