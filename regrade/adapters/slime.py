"""slime and miles: the HTTP format of `--rm-type remote_rm --rm-url http://host:8700/adapters/slime?task=...&run=...`.

The response is the reward itself; with `&reply=dict` and `--reward-key score` it is an object with the rubric's version
beside it, kept on the sample. `log_rollout` brings the version into the trainer's log.
"""

import math
from collections.abc import Mapping, MutableMapping, Sequence
from statistics import fmean
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from regrade.adapters.chat import parse_prompt
from regrade.adapters.results import METRIC_NAMES, Scored, metrics_of
from regrade.control_tokens import strip_end_tokens
from regrade.items import ItemFields

CLIENT_TIMEOUT_S = 120.0
"""slime's request timeout (ten tries). miles has aiohttp's 300 s and tries once."""


_PROMPT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}


class SlimeRequest(BaseModel):
    """One sample; `prompt` is text, rendered by a chat template or not, or turns. What cannot be read is unscored."""

    model_config = ConfigDict(frozen=True)

    prompt: Annotated[Any, WithJsonSchema(_PROMPT_SCHEMA)]
    response: Annotated[Any, WithJsonSchema({"type": "string"})]
    label: Any = None


def to_item(request: SlimeRequest, scope: str | None = None) -> ItemFields:
    """The sample as an item."""
    return {
        "prompt": parse_prompt(request.prompt),
        "completion": strip_end_tokens(request.response),
        "reference": request.label,
        "scope": scope,
    }


def to_float(result: Scored) -> float:
    """The reward; NaN without one, only for a caller that filters NaN."""
    return math.nan if result.reward is None else result.reward


def to_object(result: Scored) -> dict[str, float]:
    """The reward as `score`, and the metrics."""
    return {"score": to_float(result)} | metrics_of(result)


class _Sample(Protocol):
    reward: Any


def log_rollout(
    rollout_id: int, args: Any, samples: Sequence[_Sample], extra: MutableMapping[str, Any] | None, seconds: float
) -> bool:
    """For `--custom-rollout-log-function-path regrade.adapters.slime.log_rollout`: the mean of each metric.

    Needs `&reply=dict`. Returns False, so that the trainer logs its own metrics too.
    """
    rewards = [sample.reward for sample in samples if isinstance(sample.reward, Mapping)]
    if rewards and extra is not None:
        extra.update({f"rollout/{name}": fmean(reward[name] for reward in rewards) for name in METRIC_NAMES})
    return False
