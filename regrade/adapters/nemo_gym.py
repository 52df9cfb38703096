"""NeMo Gym: the HTTP format of a resources server's `POST /verify`, and of `POST /compare` for a group. Pure.

For a failed judge NeMo Gym expects status 200 with reward 0.0 and a failure class, which keeps the row out of its
metrics, and `mask_sample`, which keeps it out of NeMo-RL's loss. This is that trainer's null. It is never traced.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrade.adapters.results import Scored, mean_metrics, metrics_of
from regrade.contracts.content import read_completion
from regrade.contracts.score import MAX_ITEMS
from regrade.items import ItemFields

CLIENT_TIMEOUT_S = 600.0
"""Our choice: NeMo Gym's client has no timeout."""
REFERENCE_FIELDS = ("reference", "expected_answer", "ground_truth", "answer")
"""Fields of a row that hold its reference, in NeMo Gym's datasets."""
_FAILURE_CLASS = "judge_failed"
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

    conversation_history: list[JsonObject] = Field(min_length=1, max_length=256)
    response_objs: list[JsonObject] = Field(max_length=MAX_ITEMS)
    principle: str | None = None


class CompareResponse(BaseModel):
    """One reward a response, in order."""

    rewards: list[float]
    comparison_results: list[JsonObject] | None = None
    metrics: dict[str, float]


def to_item(request: VerifyRequest, scope: str | None = None) -> ItemFields:
    """The rollout as an item."""
    row = request.model_extra or {}
    rollout = row.get("_ng_rollout_index")
    return {
        "id": f"rollout-{rollout}" if isinstance(rollout, int) else None,
        "prompt": _prompt(request.responses_create_params),
        "completion": _completion(request.response),
        "reference": _reference(row),
        "scope": scope,
    }


def to_items(request: CompareRequest, scope: str | None = None) -> list[ItemFields]:
    """The group's responses as items of their own, equal ones too."""
    prompt = request.conversation_history
    return [
        {"id": f"response-{number}", "prompt": prompt, "completion": _completion(response), "scope": scope}
        for number, response in enumerate(request.response_objs)
    ]


def to_row(request: VerifyRequest, result: Scored, components: dict[str, float]) -> JsonObject:
    """The row with its reward; the metrics are at the top level, where NeMo Gym aggregates them."""
    assert result.reward is not None
    return request.model_dump() | metrics_of(result) | {"reward": result.reward, "reward_components": components}


def failure_row(request: VerifyRequest, reason: str) -> JsonObject:
    """The row of a failed judge: NeMo Gym lists it as a failure and runs it again on resume, NeMo-RL masks it.

    NeMo-RL reads the mask of `instance_config`; Gym's own fields for it are `mask_sample` and `failure_*`.
    """
    row = request.model_dump()
    config = row.get("instance_config")
    masks = {
        "mask_sample": True,
        "failure_kind": _FAILURE_CLASS,
        "failure_reason": reason,
        "instance_config": (config if isinstance(config, dict) else {}) | {"mask_sample": True},
    }
    failure = {"_ng_failure_class": _FAILURE_CLASS, "_ng_failure_judge_error": reason}
    return row | {"reward": 0.0, "reward_components": {}} | masks | failure


def to_comparison(results: Sequence[Scored]) -> CompareResponse:
    """The rewards of a group in which every response has one."""
    rewards = [result.reward for result in results if result.reward is not None]
    assert len(rewards) == len(results)
    return CompareResponse(rewards=rewards, metrics=mean_metrics(results))


def _reference(row: JsonObject) -> Any:
    """The first of `REFERENCE_FIELDS` that the row or its `verifier_metadata` has."""
    metadata = row.get("verifier_metadata")
    places = (row, metadata if isinstance(metadata, dict) else {})
    return next((place[name] for name in REFERENCE_FIELDS for place in places if place.get(name) is not None), None)


def _prompt(params: JsonObject) -> Any:
    prompt, instructions = params.get("input"), params.get("instructions")
    if not instructions:
        return prompt
    turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": instructions}, *turns]


def _completion(response: JsonObject) -> Any:
    """The policy's messages and tool calls, without hidden reasoning; plain text if it is one message."""
    output = response.get("output") or ""
    try:
        turns = read_completion(output)
    except ValueError:
        return output  # refused, with the reason, when the item is made
    if isinstance(turns, list) and [turn["role"] for turn in turns] == ["assistant"]:
        return turns[0]["content"]
    return turns
