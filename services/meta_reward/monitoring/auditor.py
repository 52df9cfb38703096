"""Has the audit judge score a share of the training traces, each trace once.

A hash of the trace's id decides whether it is audited, so every worker picks the same ones. Items are sent with purpose
`shadow`, so training has priority. One batch per poll and lineage bounds the cost: of a backlog only the newest traces
are audited.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from regrade import RewardClient, Rubric, ScoreItem
from regrade.contracts import Audited, Trace
from regrade.tasks import load_pack
from services.kit.store.keys import LineageKey
from services.meta_reward.clients.shadow import reward_of
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.evidence.window import is_evidence
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.stores.audits import AuditStore
from services.meta_reward.stores.leases import Leases

MAX_BATCH = 16
"""Traces audited per poll and lineage: one request that a small judge answers within seconds."""
_PAGE = 512
_MAX_PAGES = 4


class _AuditBatch(NamedTuple):
    """The selected traces by id, the number of the lineage's traces considered, and the id of the last one read."""

    traces: list[tuple[str, Trace]]
    considered: int
    end: str


@dataclass
class Auditor:
    """Audits every lineage. Any number of workers may run one: a lineage's audit lease admits one at a time."""

    deps: ServiceDeps
    audits: AuditStore
    client: RewardClient
    """Talks to the reward service whose judge audits."""
    leases: Leases
    metrics: MetaRewardMetrics

    async def audit_new_traces(self, lineage: LineageKey) -> None:
        """Audit the traces behind the lineage's audit cursor.

        Raises `ServiceUnavailableError` when the judge is down; then nothing is stored and the next poll retries.
        """
        async with self.leases.hold_audit(lineage) as token:
            if token is None:
                return
            cursor = await self.audits.cursor(lineage)
            batch = await self._next_batch(lineage, cursor)
            if batch.end == cursor:
                return
            audited = await self._score(lineage, batch.traces)
            await self.audits.add(lineage, audited, batch.end)
        null = sum(one.audit is None for _, one in audited)
        self.metrics.audited(lineage.task, considered=batch.considered, scored=len(audited) - null, null=null)

    async def _next_batch(self, lineage: LineageKey, after: str) -> _AuditBatch:
        selected: list[tuple[str, Trace]] = []
        considered = 0
        for _ in range(_MAX_PAGES):
            page = await self.deps.log.entries_after(lineage.task, after, _PAGE)
            own = [(i, t) for i, t in page if is_evidence(t) and (t.lineage, t.scope) == (lineage.name, lineage.scope)]
            selected += [(i, t) for i, t in own if _hash_fraction(lineage, t) < self.deps.settings.audit_share]
            considered += len(own)
            after = page[-1][0] if page else after
            if len(page) < _PAGE:
                break
        return _AuditBatch(selected[-MAX_BATCH:], considered, after)

    async def _score(self, lineage: LineageKey, traces: Sequence[tuple[str, Trace]]) -> list[tuple[str, Audited]]:
        if not traces:
            return []
        items = [
            ScoreItem(id=t.trace_id, prompt=t.prompt, completion=t.completion, reference=t.reference) for _, t in traces
        ]
        response = await self.client.shadow(lineage.task, await self._rubric(lineage), items)
        return [
            (entry_id, Audited(trace_id=t.trace_id, digest=t.digest, reward=t.reward, audit=reward_of(result)))
            for (entry_id, t), result in zip(traces, response.results, strict=True)
        ]

    async def _rubric(self, lineage: LineageKey) -> Rubric:
        """The fixed audit rubric. Raises `NotFound` when the configured digest is not stored."""
        digest = self.deps.settings.audit_rubrics.get(lineage.task)
        if digest is None:
            rubric = load_pack(lineage.task).starting_rubric
        else:
            rubric = await self.deps.store.get(lineage.task, digest)
        return rubric.model_copy(update={"lineage": lineage.name, "scope": lineage.scope, "version": None})


def _hash_fraction(lineage: LineageKey, trace: Trace) -> float:
    """A fixed pseudo-random number in [0, 1) for a trace in a lineage."""
    name = f"audit/{lineage.label}/{trace.trace_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
