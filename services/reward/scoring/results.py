"""From an item's scoring state to its result and its trace. Pure."""

import time

from regrade.contracts import Conversation, Flag, ScoreRequest
from services.kit.results import CriterionScore, ItemResult, Trace
from services.reward.items.identity import item_identity, trace_id
from services.reward.scoring.aggregate import Aggregate, aggregate
from services.reward.scoring.state import ScoringState

_MAX_TRACED_CHARS = 20_000
"""Of a completion that is too long to be judged: enough to see what the policy does."""


def item_result(state: ScoringState, lineage: str) -> ItemResult:
    """The reward, or the error that stands in its place, with every score that is known."""
    total = _aggregate(state)
    criteria = tuple(
        state.scores.get(c.id) or CriterionScore(id=c.id, score=None, confidence=None) for c in state.rubric.criteria
    )
    return ItemResult(
        id=state.item_id,
        reward=None if total is None else total.reward,
        raw=None if total is None else total.raw,
        rubric=state.pointer.ref(lineage),
        criteria=criteria,
        flags=(*state.flags, Flag.VETOED) if total is not None and total.vetoed else tuple(state.flags),
        error=state.error,
        trace_id=trace_id(item_identity(state.base, state.pointer.digest)),
        cached=False,
    )


def _aggregate(state: ScoringState) -> Aggregate | None:
    if state.error is not None:
        return None
    if state.stopped or state.vetoed:
        return Aggregate(reward=0.0, raw=0.0, vetoed=state.vetoed)
    return aggregate(state.rubric, {id_: entry.score for id_, entry in state.scores.items() if entry.score is not None})


def item_trace(
    request: ScoreRequest, state: ScoringState, result: ItemResult, *, judge_model: str, latency_ms: float
) -> Trace:
    """The trace of a result with a reward."""
    assert result.reward is not None
    assert result.raw is not None
    item = state.item
    return Trace(
        trace_id=result.trace_id,
        task=request.task,
        lineage=request.lineage,
        scope=result.rubric.scope,
        run=request.run,
        step=request.step,
        group=state.group,
        item_id=state.item_id,
        purpose=request.purpose,
        prompt=item.prompt,
        completion=_beginning(item.completion) if Flag.TOO_LONG in state.flags else item.completion,
        reference=item.reference,
        digest=result.rubric.digest,
        version=result.rubric.version,
        reward=result.reward,
        raw=result.raw,
        criteria=result.criteria,
        flags=result.flags,
        judge_model=judge_model,
        usage=state.usage,
        latency_ms=latency_ms,
        time=time.time(),
        metadata=item.metadata,
    )


def _beginning(completion: str | Conversation) -> str | Conversation:
    """The first characters of a completion; of a conversation, its first turns."""
    if isinstance(completion, str):
        return completion[:_MAX_TRACED_CHARS]
    turns, chars = [], _MAX_TRACED_CHARS
    for turn in completion:
        turns.append(turn.model_copy(update={"content": turn.content[:chars]}))
        chars -= len(turn.content)
        if chars <= 0:
            break
    return tuple(turns)
