"""NeMo Gym: the HTTP format of a resources server's `POST /verify`, and of `POST /compare` for a group. Pure.

For a failed judge NeMo Gym expects status 200 with reward 0.0 and a failure class, which keeps the row out of its
metrics. This is that trainer's null, and the only case where a missing reward is a number. It is never traced.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrade.adapters.results import Scored, mean_metrics, metrics_of
from regrade.contracts import Conversation, Message, ScoreItem
from regrade.contracts.score import MAX_ITEMS

CLIENT_TIMEOUT_S = 600.0
"""Our choice: NeMo Gym's client has no timeout."""

_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
JsonObject = dict[str, Any]


class VerifyRequest(BaseModel):
    """A rollout in the form of OpenAI's Responses API. All other fields of the row are sent back unchanged."""

    model_config = ConfigDict(frozen=True, extra="allow")

    responses_create_params: JsonObject
    response: JsonObject


class VerifyResponse(VerifyRequest):
    """The row with its reward; `reward_components` holds the score of each criterion."""

    reward: float
    reward_components: dict[str, float] = Field(default={})


class CompareRequest(BaseModel):
    """A group. `principle` is ignored: the task's rubric decides."""

    model_config = ConfigDict(frozen=True)

    conversation_history: list[dict[str, str]] = Field(min_length=1, max_length=256)
    response_objs: list[JsonObject] = Field(max_length=MAX_ITEMS)
    principle: str | None = None


class CompareResponse(BaseModel):
    """One reward a response, in order."""

    rewards: list[float]
    comparison_results: list[JsonObject] | None = None
    metrics: dict[str, float]


def to_item(request: VerifyRequest, scope: str | None = None) -> ScoreItem:
    """The rollout as an item. Raises `ValueError` where the request holds no prompt."""
    rollout = (request.model_extra or {}).get("_ng_rollout_index")
    return ScoreItem(
        id=f"rollout-{rollout}" if isinstance(rollout, int) else None,
        prompt=_prompt(request.responses_create_params),
        completion=_completion(request.response),
        scope=scope,
    )


def to_items(request: CompareRequest, scope: str | None = None) -> list[ScoreItem]:
    """The group's responses as items of their own, equal ones too. Raises `ValueError` without a prompt."""
    prompt = _conversation([_message(turn) for turn in request.conversation_history])
    return [
        ScoreItem(id=f"response-{number}", prompt=prompt, completion=_completion(response), scope=scope)
        for number, response in enumerate(request.response_objs)
    ]


def to_row(request: VerifyRequest, result: Scored, components: dict[str, float]) -> JsonObject:
    """The row with its reward; the metrics are at the top level, where NeMo Gym aggregates them."""
    assert result.reward is not None
    return request.model_dump() | metrics_of(result) | {"reward": result.reward, "reward_components": components}


def failure_row(request: VerifyRequest, reason: str) -> JsonObject:
    """The row of a failed judge: NeMo Gym lists it as a failure and runs it again on resume."""
    failure = {"_ng_failure_class": "judge_failed", "_ng_failure_judge_error": reason}
    return request.model_dump() | {"reward": 0.0, "reward_components": {}} | failure


def to_comparison(results: Sequence[Scored]) -> CompareResponse:
    """The rewards of a group in which every response has one."""
    rewards = [result.reward for result in results if result.reward is not None]
    assert len(rewards) == len(results)
    return CompareResponse(rewards=rewards, metrics=mean_metrics(results))


def _prompt(params: JsonObject) -> str | Conversation:
    prompt, instructions = params.get("input"), params.get("instructions")
    system = [Message(role="system", content=instructions)] if instructions else []
    if isinstance(prompt, str):
        return (*system, Message(role="user", content=prompt)) if system else prompt
    return _conversation([*system, *(_message(turn) for turn in prompt or [] if isinstance(turn, dict))])


def _conversation(messages: Sequence[Message | None]) -> Conversation:
    turns = tuple(message for message in messages if message is not None)
    if not turns:
        raise ValueError("the request holds no prompt text")
    return turns


def _completion(response: JsonObject) -> str | Conversation:
    """The policy's messages and tool calls, without hidden reasoning; plain text if it is one message."""
    output = response.get("output")
    messages = [_message(part) for part in output if isinstance(part, dict)] if isinstance(output, list) else []
    turns = tuple(message for message in messages if message is not None)
    if len(turns) == 1 and turns[0].role == "assistant":
        return turns[0].content
    return turns or ""


def _message(part: JsonObject) -> Message | None:
    """A turn, a tool call or a tool's output; None for a part without text."""
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
