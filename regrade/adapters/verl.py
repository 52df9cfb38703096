"""verl: `reward.custom_reward_function.path=pkg://regrade.adapters.verl`, `name=compute_score`.

verl passes neither prompt nor step: the prompt comes from the dataset's `extra_info`, and pins are by group. verl
takes the names beside `score` from the first sample, so they are always the same. It has no null. An exception ends
one rollout: verl computes the advantages of the group without it. Its `rate_limited` manager makes a reward of 0 of
an exception; there the score is a text, which verl cannot store, so the rollout ends with an error, too.
"""

import logging
import sys
from typing import Any

from regrade.adapters.core import Pending, Scorer, purpose_of, reward_of
from regrade.adapters.results import NO_METRICS, metrics_of
from regrade.contracts import ItemResult
from regrade.errors import RegradeError

log = logging.getLogger(__name__)

_PATIENCE_S = 240.0
"""Below the 300 s after which verl's rate-limited manager makes a 0 of it."""
_RATE_LIMITED = ("verl.experimental.reward_loop.reward_manager.limited", "RateLimitedRewardManager")


async def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """The reward as `score`, with the metrics of `regrade.adapters.results`.

    The prompt (text or turns) is `extra_info[prompt_key]`, else `extra_info["question"]`. Samples of an evaluation
    split are scored with purpose `eval`. `options` are `prompt_key` ("prompt") and those of `ScoringConfig`. Raises
    `RegradeError` where there is no reward, and `ValueError` without a prompt.
    """
    try:
        return _columns(await _submit(solution_str, ground_truth, extra_info or {}, **options))
    except RegradeError as error:
        return _unscored(error)


def compute_score_sync(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """`compute_score` for a reward manager that calls synchronously: `remote`, and those of verl before 0.7."""
    try:
        return _columns(_submit(solution_str, ground_truth, extra_info or {}, **options).result())
    except RegradeError as error:
        return _unscored(error)


def _submit(
    completion: str,
    ground_truth: Any,
    extra: dict[str, Any],
    *,
    prompt_key: str = "prompt",
    reward_router_address: Any = None,
    reward_model_tokenizer: Any = None,
    **options: Any,
) -> Pending[ItemResult]:
    item = {"prompt": _prompt(extra, prompt_key), "completion": completion, "reference": ground_truth}
    scorer = Scorer(default_patience_s=_PATIENCE_S, **options)
    return scorer.score_one(item, purpose=purpose_of(extra.get("split")))


def _columns(result: ItemResult) -> dict[str, Any]:
    return {"score": reward_of(result, "error")} | metrics_of(result)


def _unscored(error: RegradeError) -> dict[str, Any]:
    """Raise the error again; for a manager that would make a 0 of it, a score that is no number."""
    module, name = _RATE_LIMITED
    manager = getattr(sys.modules.get(module), name, None)
    if not getattr(manager, "_class_initialized", False):  # no manager of this kind was made in this process
        raise error
    log.error("a rollout has no reward and ends with an error: %s", error)
    return {"score": f"no reward: {error}"} | NO_METRICS


def _prompt(extra: dict[str, Any], key: str) -> Any:
    for name in (key, "question"):
        if extra.get(name) is not None:
            return extra[name]
    raise ValueError(f"verl passes no prompt to a reward function: put it into the dataset's extra_info as {key!r}")
