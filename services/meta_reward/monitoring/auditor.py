"""Has the audit judge score a small share of the traces. What was audited is in Redis, so each trace is audited once.

Which traces are audited is fixed by their ids. They are scored as shadow items, so training goes first; and at most
`audit_batch` of a line are in one look: of a backlog the newest.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from regrade import RewardClient, Rubric, ScoreItem
from regrade.contracts import Audited, Trace
from regrade.tasks import load_pack
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import entry_position, read_entries, read_newest
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.meta_reward.clients.shadow import reward_of
from services.meta_reward.evidence.window import is_evidence
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.leases import Leases

_KEPT = 4_096
_PAGE = 512
_PAGES = 4


class AuditStore:
    """The audited traces of every line, newest 4,096 or so, and how far the trace log has been looked through."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, lineage: LineageKey) -> list[tuple[str, Audited]]:
        """All of them, oldest first, by their ids in the trace stream."""
        found = await read_entries(self._redis, keys.audits_key(lineage))
        return [(entry_id, Audited.model_validate_json(fields["audit"])) for entry_id, fields in found]

    async def cursor(self, lineage: LineageKey) -> str:
        """The id of the last trace looked at; `0-0` before the first."""
        return str(await self._redis.get(keys.audit_cursor_key(lineage)) or "0-0")

    async def add(self, lineage: LineageKey, found: Sequence[tuple[str, Audited]], cursor: str) -> None:
        """Enter what was audited up to `cursor`, at once; what stands there already is left as it is."""
        last = await read_newest(self._redis, keys.audits_key(lineage), count=1)
        behind = entry_position(last[0][0]) if last else (0, 0)
        async with self._redis.pipeline(transaction=True) as pipe:
            for entry_id, one in found:
                if entry_position(entry_id) > behind:
                    pipe.xadd(keys.audits_key(lineage), {"audit": one.model_dump_json()}, id=entry_id, maxlen=_KEPT)
            pipe.set(keys.audit_cursor_key(lineage), cursor)
            await pipe.execute()


class _Look(NamedTuple):
    """Traces chosen, by id, how many of the line's were seen, and up to where."""

    chosen: list[tuple[str, Trace]]
    considered: int
    end: str


class Auditor:
    """One a process; of several workers one audits a line at a time."""

    def __init__(
        self,
        *,
        book: AuditStore,
        store: RubricStore,
        log: TraceLog,
        client: RewardClient,
        leases: Leases,
        settings: MetaRewardSettings,
        metrics: MetaRewardMetrics,
    ) -> None:
        """`client` talks to the reward service whose judge audits."""
        self._book = book
        self._store = store
        self._log = log
        self._client = client
        self._leases = leases
        self._settings = settings
        self._metrics = metrics

    async def audit_new_traces(self, lineage: LineageKey) -> None:
        """Audit what is new in a line. When the judge is away nothing is entered, and the next look asks again."""
        async with self._leases.hold_audit(lineage) as token:
            if token is None:
                return
            cursor = await self._book.cursor(lineage)
            look = await self._look(lineage, cursor)
            if look.end == cursor:
                return
            found = await self._asked(lineage, look.chosen)
            await self._book.add(lineage, found, look.end)
        null = sum(one.audit is None for _, one in found)
        self._metrics.audited(lineage.task, considered=look.considered, scored=len(found) - null, null=null)

    async def _look(self, lineage: LineageKey, after: str) -> _Look:
        chosen: list[tuple[str, Trace]] = []
        considered = 0
        for _ in range(_PAGES):
            page = await self._log.entries_after(lineage.task, after, _PAGE)
            own = [(i, t) for i, t in page if is_evidence(t) and (t.lineage, t.scope) == (lineage.name, lineage.scope)]
            chosen += [(i, t) for i, t in own if _lot(lineage, t) < self._settings.audit_share]
            considered += len(own)
            after = page[-1][0] if page else after
            if len(page) < _PAGE:
                break
        return _Look(chosen[-self._settings.audit_batch :], considered, after)

    async def _asked(self, lineage: LineageKey, chosen: Sequence[tuple[str, Trace]]) -> list[tuple[str, Audited]]:
        if not chosen:
            return []
        items = [
            ScoreItem(id=t.trace_id, prompt=t.prompt, completion=t.completion, reference=t.reference) for _, t in chosen
        ]
        response = await self._client.shadow(lineage.task, await self._rubric(lineage), items)
        return [
            (entry_id, Audited(trace_id=t.trace_id, digest=t.digest, reward=t.reward, audit=reward_of(result)))
            for (entry_id, t), result in zip(chosen, response.results, strict=True)
        ]

    async def _rubric(self, lineage: LineageKey) -> Rubric:
        """The fixed rubric to audit by. Raises `NotFound` for a digest that is not stored."""
        digest = self._settings.audit_rubrics.get(lineage.task)
        rubric = (
            load_pack(lineage.task).starting_rubric if digest is None else await self._store.get(lineage.task, digest)
        )
        return rubric.model_copy(update={"lineage": lineage.name, "scope": lineage.scope, "version": None})


def _lot(lineage: LineageKey, trace: Trace) -> float:
    """A fixed pseudo-random number in [0, 1) for a trace of a line."""
    name = f"audit/{lineage.label}/{trace.trace_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
