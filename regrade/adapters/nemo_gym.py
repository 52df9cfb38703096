"""NeMo Gym's wire: a resources server's `POST /verify`, and `POST /compare` for a group. Pure.

A judge that fails is a 200 there, with reward 0.0 and a class of failure that takes the row out of the metrics: that
trainer's form of null, and the one place where a missing reward has a number. It is never traced.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from regrade.adapters.results import METRIC_NAMES, Scored, metrics_of
from regrade.contracts import Conversation, Message, ScoreItem
from regrade.contracts.score import MAX_ITEMS

CLIENT_TIMEOUT_S = 600.0
"""Of ours: its client waits without end."""

_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
Object = dict[str, Any]


class VerifyRequest(BaseModel):
    """A rollout as OpenAI's Responses API has it. What else the row holds is sent back as it came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    responses_create_params: Object
    response: Object


class VerifyResponse(VerifyRequest):
    """The row with its reward; `reward_components` has the score of each criterion."""

    reward: float
    reward_components: dict[str, float] = Field(default={})


class CompareRequest(BaseModel):
    """A group. The task's rubric says what to compare by, so `principle` is left alone."""

    model_config = ConfigDict(frozen=True)

    conversation_history: list[dict[str, str]] = Field(min_length=1, max_length=256)
    response_objs: list[Object] = Field(max_length=MAX_ITEMS)
    principle: str | None = None


class CompareResponse(BaseModel):
    """One reward a response, in order."""

    rewards: list[float]
    comparison_results: list[Object] | None = None
    metrics: dict[str, float]


def to_item(request: VerifyRequest, scope: str | None = None) -> ScoreItem:
    """The rollout. Raises `ValueError` where the request holds no text to answer."""
    rollout = (request.model_extra or {}).get("_ng_rollout_index")
    return ScoreItem(
        id=f"rollout-{rollout}" if isinstance(rollout, int) else None,
        prompt=_asked_for(request.responses_create_params),
        completion=_written(request.response),
        scope=scope,
    )


def to_items(request: CompareRequest, scope: str | None = None) -> list[ScoreItem]:
    """The group's responses; equal ones are items of their own. Raises `ValueError`."""
    prompt = _conversation([_turn(turn) for turn in request.conversation_history])
    return [
        ScoreItem(id=f"response-{number}", prompt=prompt, completion=_written(response), scope=scope)
        for number, response in enumerate(request.response_objs)
    ]


def to_row(request: VerifyRequest, result: Scored, components: dict[str, float]) -> Object:
    """The row with its reward. The figures stand at the top, where its metrics find them."""
    assert result.reward is not None
    return request.model_dump() | metrics_of(result) | {"reward": result.reward, "reward_components": components}


def failure_row(request: VerifyRequest, why: str) -> Object:
    """The row of a judge that failed: goes to the failures, and is run again on resume."""
    kind: Literal["judge_failed"] = "judge_failed"
    told = {"reward": 0.0, "_ng_failure_class": kind, "_ng_failure_judge_error": why}
    return request.model_dump() | {"reward_components": {}} | told


def to_comparison(results: Sequence[Scored]) -> CompareResponse:
    """The rewards of a group that was scored whole."""
    rewards = [result.reward for result in results if result.reward is not None]
    assert len(rewards) == len(results)
    told = [metrics_of(result) for result in results]
    return CompareResponse(
        rewards=rewards, metrics={n: fmean(t[n] for t in told) for n in METRIC_NAMES} if told else {}
    )


def _asked_for(params: Object) -> str | Conversation:
    request = params.get("input")
    told = [Message(role="system", content=params["instructions"])] if params.get("instructions") else []
    if isinstance(request, str):
        return (*told, Message(role="user", content=request)) if told else request
    turns = [_turn(turn) for turn in request or [] if isinstance(turn, dict)]
    return _conversation([*told, *turns])


def _conversation(turns: Sequence[Message | None]) -> Conversation:
    found = tuple(turn for turn in turns if turn is not None)
    if not found:
        raise ValueError("no text to answer")
    return found


def _written(response: Object) -> str | Conversation:
    """What the policy wrote and called, without its hidden reasoning; text where it is one turn."""
    output = response.get("output")
    turns = [_turn(part) for part in output if isinstance(part, dict)] if isinstance(output, list) else []
    found = tuple(turn for turn in turns if turn is not None)
    if len(found) == 1 and found[0].role == "assistant":
        return found[0].content
    return found or ""


def _turn(part: Object) -> Message | None:
    """A turn, a tool's call or its output; None for what has no text."""
    kind = part.get("type", "message")
    if kind == "function_call":
        return Message(role="assistant", content=f"{part.get('name')}({part.get('arguments', '')})")
    if kind == "function_call_output":
        return Message(role="tool", content=_text(part.get("output")))
    text = _text(part.get("content")) if kind == "message" else ""
    role = _ROLES.get(str(part.get("role", "assistant")))
    return Message(role=role, content=text) if text and role else None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
