"""Pins: which rubric scores an item, and which items share it (I2)."""

from collections.abc import Sequence

from regrade.contracts import Flag, Purpose, Rubric, ScoreRequest
from services.kit.errors import Conflict, Invalid, NotFound
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, no_active_rubric
from services.kit.store.trace_log import PinRequest
from services.reward.persistence.outcome_store import OutcomeStore
from services.reward.persistence.replica_cache import ActiveRubricCache
from services.reward.scoring.state import ScoringState

_STEP_TTL_S = 7 * 86_400
"""A step may be repeated after a crash of the trainer: days later, by a person."""
_GROUP_TTL_S = 3_600
"""A group is scored within one generation batch; its prompt may come again in a later epoch, under a newer rubric."""


class Pins:
    """Chooses each item's rubric: the named one, else its pin's, else the active one, which is then pinned."""

    def __init__(self, actives: ActiveRubricCache, outcomes: OutcomeStore) -> None:
        self._actives = actives
        self._outcomes = outcomes

    async def assign(self, request: ScoreRequest, states: Sequence[ScoringState]) -> None:
        """Set each state's rubric, and its result where an earlier request stored one.

        Raises `Conflict` (another rubric is pinned), `NotFound`, `Invalid`, `RedisUnavailable`.
        """
        training = request.purpose is Purpose.TRAIN
        if isinstance(request.rubric, Rubric):
            await self._assign_candidate(request, request.rubric, states)
        elif request.rubric is not None and not training:
            await self._assign_by_scope(request, request.rubric, states)
        elif request.purpose is Purpose.SHADOW:
            raise Invalid("a shadow request names the rubric it measures", code="rubric_missing")
        elif not training and request.run is None:
            await self._assign_by_scope(request, None, states)
        else:
            await self._assign_pinned(request, states)

    async def _assign_candidate(self, request: ScoreRequest, rubric: Rubric, states: Sequence[ScoringState]) -> None:
        if request.purpose is Purpose.TRAIN:
            raise Invalid(
                "training items are scored by an activated rubric; name a version, or use purpose 'shadow' or 'eval'",
                code="candidate_in_training",
            )
        await self._actives.current(LineageKey(request.task, request.lineage, rubric.scope))
        for state in states:
            state.rubric, state.pointer = rubric, RubricPointer(rubric.digest, None, rubric.scope)

    async def _assign_by_scope(
        self, request: ScoreRequest, name: int | str | None, states: Sequence[ScoringState]
    ) -> None:
        """Without pins: the rubric of that version or digest, else the one active at this moment."""
        by_scope: dict[str | None, tuple[Rubric, RubricPointer]] = {}
        for state in states:
            scope = state.item.scope
            if scope not in by_scope:
                lineage = LineageKey(request.task, request.lineage, scope)
                lookup = self._actives.current(lineage) if name is None else self._actives.find(lineage, name)
                pointer = await lookup
                by_scope[scope] = await self._actives.rubric(request.task, pointer.digest), pointer
            state.rubric, state.pointer = by_scope[scope]

    async def _assign_pinned(self, request: ScoreRequest, states: Sequence[ScoringState]) -> None:
        by_pin: dict[tuple[str | None, str], list[ScoringState]] = {}
        for state in states:
            group = state.group if request.step is None else ""
            by_pin.setdefault((state.item.scope, group), []).append(state)
        pins = [
            await self._pin_request(request, scope, group, [member.base for member in members])
            for (scope, group), members in by_pin.items()
        ]
        pin_states = await self._outcomes.resolve(request.task, pins, request.on_outage)
        lost = {pin.lineage for pin, state in zip(pins, pin_states, strict=True) if state.active is None}
        if lost and any([await self._actives.restore(lineage) for lineage in lost]):
            pin_states = await self._outcomes.resolve(request.task, pins, request.on_outage)
        for members, pin, pin_state in zip(by_pin.values(), pins, pin_states, strict=True):
            pointer = pin_state.active
            if pointer is None:
                raise NotFound(no_active_rubric(request.task, request.lineage), code="unknown_task")
            if pin_state.conflict:
                raise Conflict(
                    f"pinned to rubric {pointer.digest}; the request names {pin.requested and pin.requested.digest}",
                    code="pinned",
                )
            rubric = await self._actives.rubric(request.task, pointer.digest)
            for state, stored in zip(members, pin_state.outcomes, strict=True):
                state.rubric, state.pointer, state.pin, state.result = rubric, pointer, pin, stored
                state.degraded = pin_state.degraded
                if pin_state.unpinned:
                    state.flags.append(Flag.UNPINNED)

    async def _pin_request(
        self, request: ScoreRequest, scope: str | None, group: str, bases: Sequence[str]
    ) -> PinRequest:
        lineage = LineageKey(request.task, request.lineage, scope)
        requested = None
        if request.rubric is not None:
            assert not isinstance(request.rubric, Rubric)
            requested = await self._actives.find(lineage, request.rubric)
            if requested.version is None:
                raise Invalid(
                    "this rubric was never active, so it scores no training items; activate it, "
                    "or use purpose 'shadow' or 'eval'",
                    code="never_active",
                )
        key = keys.pin_key(lineage, request.run, request.step, group)
        ttl_s = _GROUP_TTL_S if request.step is None else _STEP_TTL_S
        return PinRequest(key, lineage, requested, ttl_s, tuple(bases))
