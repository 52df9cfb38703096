"""The audited traces of each lineage in Redis, and how far the audit has read the trace log."""

from collections.abc import Sequence

from redis.asyncio import Redis

from regrade.contracts import Audited
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import entry_position, read_entries, read_newest

_MAX_AUDITS = 4_096
"""Audited traces a lineage keeps. The largest comparison takes two windows, 64 by default."""


class AuditStore:
    """The newest audited traces of every lineage. Each one has the id of its trace in the trace stream."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, lineage: LineageKey) -> list[tuple[str, Audited]]:
        """All audited traces with their ids, oldest first."""
        rows = await read_entries(self._redis, keys.audits_key(lineage))
        return [(entry_id, Audited.model_validate_json(fields["audit"])) for entry_id, fields in rows]

    async def cursor(self, lineage: LineageKey) -> str:
        """Id of the last trace that the audit considered; `0-0` before the first."""
        return str(await self._redis.get(keys.audit_cursor_key(lineage)) or "0-0")

    async def add(self, lineage: LineageKey, audited: Sequence[tuple[str, Audited]], cursor: str) -> None:
        """Store audited traces and advance the cursor, atomically; traces stored before are skipped."""
        last = await read_newest(self._redis, keys.audits_key(lineage), count=1)
        stored_until = entry_position(last[0][0]) if last else (0, 0)
        async with self._redis.pipeline(transaction=True) as pipe:
            for entry_id, one in audited:
                if entry_position(entry_id) > stored_until:
                    pipe.xadd(
                        keys.audits_key(lineage), {"audit": one.model_dump_json()}, id=entry_id, maxlen=_MAX_AUDITS
                    )
            pipe.set(keys.audit_cursor_key(lineage), cursor)
            await pipe.execute()
