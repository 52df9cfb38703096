"""Lineages without an active rubric: at the first start, or because Redis has lost its data.

What becomes active is the rubric of the last activation in Redis, else the one that this replica knew to be active,
else the task pack's starting rubric; each is recorded as the lineage's bootstrap (I6). A lineage that has an active
rubric is left as it is. A restored rubric keeps its version, and later ones are numbered on from there: a version that
a caller remembers never names another rubric.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Literal, NamedTuple

from regrade.contracts import Override, Rubric
from services.kit.errors import Conflict, NotFound
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, RubricStore
from services.reward.metrics import RewardMetrics

log = logging.getLogger(__name__)

Origin = Literal["history", "memory", "pack"]
_REASONS: Mapping[Origin, str] = {
    "history": "Redis had lost the active pointer: the rubric of the last activation",
    "memory": "Redis had lost the lineage: the rubric that a running replica had as the active one",
    "pack": "starting rubric of the task pack",
}


class _Candidate(NamedTuple):
    origin: Origin
    rubric: Rubric
    version: int | None


class LineageRestorer:
    """Activates a rubric where none is active; `starting` are the lineages of the settings with their first rubrics."""

    def __init__(self, store: RubricStore, starting: Mapping[LineageKey, Rubric], metrics: RewardMetrics) -> None:
        self.starting = starting
        self._store = store
        self._metrics = metrics

    async def restore(self, lineage: LineageKey, last_known: RubricPointer | None) -> RubricPointer | None:
        """Activate the best candidate, and return what is active then; None without a candidate. Raises `RedisError`.

        `last_known` is the rubric that this replica knew to be active.
        """
        async for candidate in self._candidates(lineage, last_known):
            await self._store.put(lineage.task, candidate.rubric)
            reason = _REASONS[candidate.origin]
            authority = Override(by="bootstrap", reason=reason, bootstrap=True)
            digest = candidate.rubric.digest
            try:
                await self._store.activate(
                    lineage, digest, expected=None, authority=authority, version=candidate.version
                )
            except Conflict:
                log.info("another replica has activated a rubric", extra={"task": lineage.task})
            else:
                await self._announce(lineage, candidate, was_known=last_known is not None)
            return await self._store.active(lineage)
        return None

    async def _announce(self, lineage: LineageKey, candidate: _Candidate, *, was_known: bool) -> None:
        extra = {"task": lineage.task, "lineage": lineage.label, "digest": candidate.rubric.digest}
        if candidate.origin == "pack" and not was_known:
            log.info("the starting rubric is active", extra=extra)
            return
        self._metrics.restored(lineage.task, candidate.origin)
        log.error(f"Redis has lost data; restored a lineage. {_REASONS[candidate.origin]}", extra=extra)
        await self._store.put_back(lineage.task)

    async def _candidates(self, lineage: LineageKey, last_known: RubricPointer | None) -> AsyncIterator[_Candidate]:
        change = await self._store.last_change(lineage)
        if change is not None and (rubric := await self._content(lineage.task, change.digest)) is not None:
            yield _Candidate("history", rubric, change.version)
        if last_known is not None and (rubric := self._store.cached(lineage.task, last_known.digest)) is not None:
            yield _Candidate("memory", rubric, last_known.version)
        if lineage in self.starting:
            yield _Candidate("pack", self.starting[lineage], None)

    async def _content(self, task: str, digest: str) -> Rubric | None:
        try:
            return await self._store.get(task, digest)
        except (NotFound, ValueError):
            return None
