"""verl: `reward.custom_reward_function.path=pkg://regrade.adapters.verl`, `name=compute_score`.

verl passes neither prompt nor step: the prompt comes from the dataset's `extra_info`, and pins are by group. verl
takes the names beside `score` from the first sample, so they are always the same. It has no null, and one of its
reward managers turns exceptions into 0, so a sample that cannot be scored is NaN: group filtering leaves it out, and
without filtering the optimizer skips the step. `unscored=error` raises instead.
"""

import math
from typing import Any

from regrade.adapters.core import Scorer, Unscored, purpose_of, reward_of
from regrade.adapters.results import NO_METRICS, metrics_of
from regrade.errors import ServiceUnavailableError

_PATIENCE_S = 240.0
"""Below the 300 s after which verl's rate-limited manager makes a 0 of it."""


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    *,
    prompt_key: str = "prompt",
    unscored: Unscored = "nan",
    reward_router_address: Any = None,
    reward_model_tokenizer: Any = None,
    **options: Any,
) -> dict[str, float]:
    """The reward as `score`, with the metrics of `regrade.adapters.results`; `options` are those of `ScoringConfig`.

    The prompt (text or turns) is `extra_info[prompt_key]`, else `extra_info["question"]`. Samples of an evaluation
    split are scored with purpose `eval`. Raises `ValueError` without a prompt.
    """
    extra = extra_info or {}
    item = {"prompt": _prompt(extra, prompt_key), "completion": solution_str, "reference": ground_truth}
    scorer = Scorer(default_patience_s=_PATIENCE_S, **options)
    try:
        result = await scorer.score_one(item, purpose=purpose_of(extra.get("split")))
    except ServiceUnavailableError:
        if unscored == "error":
            raise
        return {"score": math.nan} | NO_METRICS
    return {"score": reward_of(result, unscored)} | metrics_of(result)


def _prompt(extra: dict[str, Any], key: str) -> Any:
    for name in (key, "question"):
        if extra.get(name) is not None:
            return extra[name]
    raise ValueError(f"verl passes no prompt to a reward function: put it into the dataset's extra_info as {key!r}")
