"""Checkpoints: what a cycle's finished stages have found, so that another worker goes on where one was killed.

A stage's result and everything it leaves behind (lineage events, baselines, alarms) are written in one
step under the fencing token: a stage has happened once or not at all.
"""

import logging
from collections.abc import Mapping, Sequence

from pydantic import Field, ValidationError
from redis.asyncio import Redis

from regrade.contracts import Evidence, GateReport, LineageEvent, SampleReport, Stage
from regrade.contracts.score import Outcome
from services.kit.errors import Conflict
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import LuaFunction
from services.kit.store.rubric_store import event_json
from services.meta_reward.stores.status import RETENTION_S, CycleRequest
from services.meta_reward.types import Candidate, Proposal

log = logging.getLogger(__name__)

ORDER = (Stage.EVIDENCE, Stage.SAMPLE, Stage.PROPOSE, Stage.LINT, Stage.GATE, Stage.ACTIVATE)


class Checkpoint(Outcome):
    """A cycle under way. `window` is (after, up to and including), `traces` how many of the line's lie in it.

    `active` is the digest its results are about, `done` the last finished stage, `tries` how many have begun
    the stage behind it, `resumed` how many went on where another had ended.
    """

    cycle: str
    trigger: str
    request: CycleRequest | None
    started: float
    window: tuple[str, str]
    traces: int
    active: str
    done: Stage | None = None
    tries: int = 1
    resumed: int = 0
    evidence: Evidence | None = None
    sample: SampleReport | None = None
    proposals: dict[str, Proposal] = Field(default_factory=dict)
    clean: tuple[Candidate, ...] = ()
    gates: tuple[GateReport, ...] = ()
    notes: tuple[str, ...] = ()
    activated: str | None = None

    def has_done(self, stage: Stage) -> bool:
        """Whether that stage is finished."""
        return self.done is not None and ORDER.index(stage) <= ORDER.index(self.done)

    @property
    def proposed(self) -> list[Candidate]:
        """All candidates, in the proposers' order."""
        return [candidate for answer in self.proposals.values() for candidate in answer.candidates]


class CheckpointStore:
    """The checkpoint of every line's cycle."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._save = LuaFunction(redis, "checkpoint")

    async def exists(self, lineage: LineageKey) -> bool:
        """Whether a cycle of this line has begun and not ended."""
        return bool(await self._redis.exists(keys.checkpoint_key(lineage)))

    async def load(self, lineage: LineageKey) -> Checkpoint | None:
        """The cycle that has begun and not ended; one that this release cannot read counts as none."""
        text = await self._redis.get(keys.checkpoint_key(lineage))
        if not text:
            return None
        try:
            return Checkpoint.model_validate_json(text)
        except ValidationError:
            log.warning("a checkpoint of another release is given up", extra={"task": lineage.task})
            return None

    async def save(
        self,
        lineage: LineageKey,
        token: str,
        checkpoint: Checkpoint,
        events: Sequence[LineageEvent] = (),
        values: Mapping[str, str] | None = None,
    ) -> None:
        """Write a checkpoint, the events and the values (by key) that belong to it. Raises `Conflict` when fenced."""
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
            raise Conflict("the cycle lost its lease; what it found was refused", code="fenced")


def _event_args(event: LineageEvent) -> dict[str, str]:
    gate = event.gate if event.gate is not None and event.gate.passed else None
    passed, against = (event.digest, gate.active.digest) if gate is not None else ("", "")
    return {"event": event_json(event), "passed": passed, "against": against}
