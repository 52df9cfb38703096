"""OpenRLHF's wire: `--reward.remote_url http://host:8700/adapters/openrlhf?task=...&run=...`. Pure.

One sample a request, as lists of one; given several URLs, all but the first get empty lists and must answer, too.
Logs become tensors, so they are numbers; a reward that is NaN is one that its dynamic filtering leaves out.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from regrade.adapters.chat import completion_after_prompt, parse_rendered_prompt, strip_end_tokens
from regrade.adapters.results import METRIC_NAMES, Scored, metrics_of
from regrade.contracts import ScoreItem
from regrade.contracts.score import MAX_ITEMS

CLIENT_TIMEOUT_S = 180.0
"""Its time limit of a request; after five failed ones the run ends."""

Texts = Annotated[list[str], Field(max_length=MAX_ITEMS)]


class OpenRLHFRequest(BaseModel):
    """`query` is prompt and response as one text, special tokens included."""

    model_config = ConfigDict(frozen=True)

    query: Texts
    prompts: Texts
    labels: Annotated[list[JsonValue], Field(max_length=MAX_ITEMS)] = []

    @model_validator(mode="after")
    def _one_of_each(self) -> "OpenRLHFRequest":
        if len(self.query) != len(self.prompts) or len(self.labels) not in (0, len(self.query)):
            raise ValueError("query, prompts and labels are of different lengths")
        return self


class OpenRLHFResponse(BaseModel):
    """A reward a query. `scores` is what dynamic filtering goes by."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


def to_items(request: OpenRLHFRequest, scope: str | None = None) -> list[ScoreItem]:
    """The samples. Raises `ValueError` where a query does not hold its prompt."""
    labels = request.labels or [None] * len(request.query)
    return [_item(*one, scope) for one in zip(request.query, request.prompts, labels, strict=True)]


def to_response(results: Sequence[Scored]) -> OpenRLHFResponse:
    """The answer; what has no reward is NaN, which only a caller that filters may be sent."""
    rewards = [math.nan if result.reward is None else result.reward for result in results]
    told = [metrics_of(result) for result in results]
    logs = {name: [figure[name] for figure in told] for name in METRIC_NAMES} if told else {}
    return OpenRLHFResponse(rewards=rewards, scores=rewards, extra_logs=logs)


def _item(query: str, prompt: str, label: JsonValue, scope: str | None) -> ScoreItem:
    completion = completion_after_prompt(query, prompt)
    if completion is None:
        raise ValueError("a query does not begin with its prompt")
    return ScoreItem(
        prompt=parse_rendered_prompt(prompt),
        completion=strip_end_tokens(completion),
        reference=label if isinstance(label, str) and label else None,
        scope=scope,
    )
