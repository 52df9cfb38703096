"""Pins: which items share one, and which rubric a request may name (I2)."""

from collections.abc import Sequence
from typing import NamedTuple

from regrade.contracts import Purpose, Rubric, ScoreRequest
from services.kit.errors import Conflict, Invalid, NotFound
from services.kit.results import ItemResult
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer
from services.kit.store.trace_log import PinRequest
from services.reward.items.identity import group_of
from services.reward.persistence.outcome_store import OutcomeStore
from services.reward.persistence.replica_cache import ActiveRubricCache
from services.reward.settings import RewardSettings


class Resolved(NamedTuple):
    """Per item: the rubric it is scored under, where that stands, its stored outcome if it has one, and its pin."""

    rubric: Rubric
    active: RubricPointer
    known: ItemResult | None
    pin: PinRequest | None = None
    unpinned: bool = False
    degraded: bool = False


class Pins:
    """Finds each item's rubric: the named candidate, else its pin's, else the active one, which is then pinned."""

    def __init__(self, actives: ActiveRubricCache, outcomes: OutcomeStore, settings: RewardSettings) -> None:
        self._actives = actives
        self._outcomes = outcomes
        self._settings = settings

    async def resolve(self, request: ScoreRequest, bases: Sequence[str]) -> list[Resolved]:
        """One entry an item. Raises `Conflict` (pinned otherwise), `NotFound`, `Invalid`, `RedisUnavailable`."""
        if isinstance(request.rubric, Rubric):
            return await self._candidate(request, request.rubric)
        if request.rubric is not None and request.purpose is not Purpose.TRAIN:
            return await self._named(request, request.rubric)
        if request.purpose is Purpose.SHADOW:
            raise Invalid("a shadow request names the rubric it measures", code="rubric_missing")
        if request.purpose is Purpose.EVAL and request.run is None:
            return await self._active(request)
        return await self._pinned(request, bases)

    async def _candidate(self, request: ScoreRequest, rubric: Rubric) -> list[Resolved]:
        if request.purpose is Purpose.TRAIN:
            raise Invalid(
                "training items are scored by an activated rubric; name a version, or use purpose 'shadow' or 'eval'",
                code="candidate_in_training",
            )
        await self._actives.current(LineageKey(request.task, request.lineage, rubric.scope))
        return [Resolved(rubric, RubricPointer(rubric.digest, None, rubric.scope), None) for _ in request.items]

    async def _active(self, request: ScoreRequest) -> list[Resolved]:
        """A look at a text outside of any run: what is active now counts, not what an earlier look was pinned to."""
        found: dict[str | None, Resolved] = {}
        for item in request.items:
            if item.scope not in found:
                active = await self._actives.current(LineageKey(request.task, request.lineage, item.scope))
                found[item.scope] = Resolved(await self._actives.rubric(request.task, active.digest), active, None)
        return [found[item.scope] for item in request.items]

    async def _named(self, request: ScoreRequest, name: int | str) -> list[Resolved]:
        found: dict[str | None, Resolved] = {}
        for item in request.items:
            if item.scope not in found:
                active = await self._actives.find(LineageKey(request.task, request.lineage, item.scope), name)
                found[item.scope] = Resolved(await self._actives.rubric(request.task, active.digest), active, None)
        return [found[item.scope] for item in request.items]

    async def _pinned(self, request: ScoreRequest, bases: Sequence[str]) -> list[Resolved]:
        members: dict[tuple[str | None, str], list[int]] = {}
        for index, item in enumerate(request.items):
            group = group_of(item) if request.step is None else ""
            members.setdefault((item.scope, group), []).append(index)
        pins = [await self._pin_request(request, group, indices, bases) for (_, group), indices in members.items()]
        states = await self._outcomes.resolve(request.task, pins, request.on_outage)
        resolved: list[Resolved | None] = [None] * len(request.items)
        for indices, state, pin in zip(members.values(), states, pins, strict=True):
            if state.active is None:
                raise NotFound(
                    f"task {request.task!r} has no active rubric in lineage {request.lineage!r}; put one first",
                    code="unknown_task",
                )
            if state.conflict:
                raise Conflict(
                    f"pinned to rubric {state.active.digest}; "
                    f"the request names {pin.requested and pin.requested.digest}",
                    code="pinned",
                )
            rubric = await self._actives.rubric(request.task, state.active.digest)
            for index, known in zip(indices, state.outcomes, strict=True):
                resolved[index] = Resolved(rubric, state.active, known, pin, state.unpinned, state.degraded)
        return [entry for entry in resolved if entry is not None]

    async def _pin_request(
        self, request: ScoreRequest, group: str, indices: Sequence[int], bases: Sequence[str]
    ) -> PinRequest:
        lineage = LineageKey(request.task, request.lineage, request.items[indices[0]].scope)
        key = keys.pin_key(lineage, request.run, request.step, group)
        wanted = None
        if request.rubric is not None:
            assert not isinstance(request.rubric, Rubric)
            wanted = await self._actives.find(lineage, request.rubric)
            if wanted.version is None:
                raise Invalid("this rubric was never active, so it scores no training items", code="never_active")
        settings = self._settings
        ttl = settings.pin_step_ttl_s if request.step is not None else settings.pin_group_ttl_s
        return PinRequest(key, lineage, wanted, ttl, tuple(bases[i] for i in indices))
