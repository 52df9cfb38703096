"""Checkpoints: the results of a cycle's completed stages, with which another worker resumes the cycle.

A stage's results and everything it writes (lineage events, baselines, alarms) are stored atomically under the fencing
token, so a stage takes effect once or not at all.
"""

import logging
from collections.abc import Mapping, Sequence

from pydantic import ConfigDict, Field, ValidationError
from redis.asyncio import Redis

from regrade.contracts import Evidence, GateReport, LineageEvent, SampleReport, Stage
from regrade.contracts.base import TolerantModel
from services.kit.errors import Conflict
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import LuaFunction
from services.kit.store.rubric_store import event_json
from services.meta_reward.stores.status import RETENTION_S, CycleRequest
from services.meta_reward.types import Candidate, Proposal

log = logging.getLogger(__name__)

STAGE_ORDER = (Stage.EVIDENCE, Stage.SAMPLE, Stage.PROPOSE, Stage.LINT, Stage.GATE, Stage.ACTIVATE)


class Checkpoint(TolerantModel):
    """The state of a running cycle. Stages assign their results to it; each save writes all of it."""

    model_config = ConfigDict(frozen=False, use_attribute_docstrings=True)

    cycle: str
    trigger: str
    request: CycleRequest | None
    started: float
    window: tuple[str, str]
    """Trace ids: behind the first, up to and including the second."""
    traces: int
    """Traces of the lineage in the window."""
    active: str
    """Digest of the active rubric that the results refer to."""
    done: Stage | None = None
    """The last completed stage."""
    tries: int = 1
    """Tries at the stage after `done`."""
    resumed: int = 0
    """Times that the cycle was resumed."""
    evidence: Evidence | None = None
    sample: SampleReport | None = None
    proposals: dict[str, Proposal] = Field(default_factory=dict)
    """By proposer."""
    clean: tuple[Candidate, ...] = ()
    """Candidates that passed the lint."""
    decision: int | None = None
    """1-based index of the gate's decision against the active rubric, once counted."""
    gates: tuple[GateReport, ...] = ()
    notes: tuple[str, ...] = ()
    activated: str | None = None

    def has_done(self, stage: Stage) -> bool:
        """Whether that stage is completed."""
        return self.done is not None and STAGE_ORDER.index(stage) <= STAGE_ORDER.index(self.done)

    @property
    def proposed(self) -> list[Candidate]:
        """All candidates, in the order of the proposers."""
        return [candidate for proposal in self.proposals.values() for candidate in proposal.candidates]


class CheckpointStore:
    """The checkpoint of each lineage's running cycle."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._save = LuaFunction(redis, "checkpoint")

    async def exists(self, lineage: LineageKey) -> bool:
        """Whether a cycle of this lineage has begun and not ended."""
        return bool(await self._redis.exists(keys.checkpoint_key(lineage)))

    async def load(self, lineage: LineageKey) -> Checkpoint | None:
        """The cycle that has begun and not ended, or None; also None when this release can't read the checkpoint."""
        text = await self._redis.get(keys.checkpoint_key(lineage))
        if not text:
            return None
        try:
            return Checkpoint.model_validate_json(text)
        except ValidationError:
            log.warning("a checkpoint of another release is ignored", extra={"task": lineage.task})
            return None

    async def save(
        self,
        lineage: LineageKey,
        token: str,
        checkpoint: Checkpoint,
        events: Sequence[LineageEvent] = (),
        values: Mapping[str, str] | None = None,
    ) -> None:
        """Write a checkpoint, and the events and values (by Redis key) of its stage, atomically.

        Raises `Conflict` when the lease was lost; then nothing is written.
        """
        values = values or {}
        args = {
            "token": token,
            "checkpoint": checkpoint.model_dump_json(),
            "ttl_s": RETENTION_S,
            "events": [_event_args(event) for event in events],
            "values": list(values.values()),
        }
        redis_keys = [
            keys.lease_key(lineage),
            keys.checkpoint_key(lineage),
            keys.lineage_events_key(lineage),
            keys.gate_passes_key(lineage),
            *values,
        ]
        if not await self._save(redis_keys, args):
            raise Conflict("the cycle lost its lease; its checkpoint was refused", code="fenced")


def _event_args(event: LineageEvent) -> dict[str, str]:
    gate = event.gate if event.gate is not None and event.gate.passed else None
    passed, against = (event.digest, gate.active.digest) if gate is not None else ("", "")
    return {"event": event_json(event), "passed": passed, "against": against}
