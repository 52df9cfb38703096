"""OpenRLHF: the HTTP format of `--reward.remote_url http://host:8700/adapters/openrlhf?task=...&run=...`. Pure.

A request holds one sample, as lists of one. With several URLs, all but the first get empty lists and must respond too.
Logs become tensors, so they are numbers. OpenRLHF's dynamic filtering leaves out a reward that is NaN.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from regrade.adapters.chat import completion_after_prompt, parse_prompt
from regrade.adapters.results import METRIC_NAMES, Scored, metrics_of
from regrade.contracts.score import MAX_ITEMS
from regrade.control_tokens import strip_end_tokens
from regrade.items import ItemFields, RefusedItem

CLIENT_TIMEOUT_S = 180.0
"""OpenRLHF's request timeout; after five failed requests the run ends."""

_Text = Annotated[Any, WithJsonSchema({"type": "string"})]
"""Anything, since one sample that is no text must not refuse the request of the others."""
Texts = Annotated[list[_Text], Field(max_length=MAX_ITEMS)]


class OpenRLHFRequest(BaseModel):
    """`query` is prompt and response as one text, with special tokens."""

    model_config = ConfigDict(frozen=True)

    query: Texts
    prompts: Texts
    labels: Annotated[list[Any], Field(max_length=MAX_ITEMS)] = []

    @model_validator(mode="after")
    def _equal_lengths(self) -> "OpenRLHFRequest":
        if len(self.query) != len(self.prompts) or len(self.labels) not in (0, len(self.query)):
            raise ValueError("query, prompts and labels are of different lengths")
        return self


class OpenRLHFResponse(BaseModel):
    """One reward a query; `scores` is what dynamic filtering uses."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


def to_items(request: OpenRLHFRequest, scope: str | None = None) -> list[ItemFields | RefusedItem]:
    """The samples as items; one is refused whose query does not begin with its prompt."""
    labels = request.labels or [None] * len(request.query)
    return [_item(*sample, scope) for sample in zip(request.query, request.prompts, labels, strict=True)]


def to_response(results: Sequence[Scored]) -> OpenRLHFResponse:
    """The rewards; NaN for a missing one, only for a caller that filters NaN."""
    rewards = [math.nan if result.reward is None else result.reward for result in results]
    metrics = [metrics_of(result) for result in results]
    logs = {name: [each[name] for each in metrics] for name in METRIC_NAMES} if metrics else {}
    return OpenRLHFResponse(rewards=rewards, scores=rewards, extra_logs=logs)


def _item(query: Any, prompt: Any, label: Any, scope: str | None) -> ItemFields | RefusedItem:
    completion = query
    if isinstance(query, str):
        completion = completion_after_prompt(query, prompt) if isinstance(prompt, str) else None
        if completion is None:
            return RefusedItem(None, "the query does not begin with its prompt")
    return {
        "prompt": parse_prompt(prompt),
        "completion": strip_end_tokens(completion),
        "reference": label,
        "scope": scope,
    }
