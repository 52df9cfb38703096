"""Incremental reading of a lineage's traces: each poll reads on from where the last one ended."""

from collections import deque
from collections.abc import Callable

from regrade.contracts import Trace
from services.kit.store.keys import LineageKey
from services.kit.store.trace_log import TraceLog


class TraceTail:
    """The wanted traces behind `start`: the first `limit` of them, the `newest` last ones, and how many there are."""

    def __init__(self, start: str, *, limit: int, newest: int = 0) -> None:
        self.start = self.end = self.head_end = start
        self.head: list[Trace] = []
        """The first traces. The log has been read up to `head_end` for them, and up to `end` for the others."""
        self.newest: deque[Trace] = deque(maxlen=newest)
        self.total = self.total_at_alarms = 0
        """Traces read so far, and when alarms were last evaluated."""
        self._limit = limit

    async def read(self, log: TraceLog, lineage: LineageKey, wanted: Callable[[Trace], bool]) -> None:
        """Read on, `limit` traces at most."""
        room = self._limit - len(self.head)
        if room:
            self.head += await self._advance(log, lineage, room, wanted)
            self.head_end = self.end
        if len(self.head) == self._limit:
            await self._advance(log, lineage, self._limit - room, wanted)

    async def _advance(
        self, log: TraceLog, lineage: LineageKey, count: int, wanted: Callable[[Trace], bool]
    ) -> list[Trace]:
        traces, self.end = await log.read(lineage, self.end, count, wanted)
        self.newest.extend(traces)
        self.total += len(traces)
        return traces
