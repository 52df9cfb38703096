"""verl: `reward.custom_reward_function.path=pkg://regrade.adapters.verl`, `name=compute_score`.

verl tells neither prompt nor step: the prompt comes through the data set's `extra_info`, pins are by group. It reads
the names beside the score from the first sample, so they never change. It knows no null: a naive manager passes
exceptions on, the rate-limited one makes them rewards of 0. So what cannot be scored is NaN, which group filtering
leaves out, and which without it costs the optimizer its step; `unscored=error` raises instead.
"""

import math
from typing import Any

from regrade.adapters.chat import text_or_conversation
from regrade.adapters.core import Scorer, Unscored, purpose_of, reward_of, scoring_config
from regrade.adapters.results import empty_metrics, metrics_of
from regrade.contracts import Conversation, ScoreItem
from regrade.errors import ServiceUnavailableError

_PATIENCE_S = 240.0
"""Below the 300 s after which verl's rate-limited manager makes 0 of it."""


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
    **where: Any,
) -> dict[str, float]:
    """`score`, and the figures of `regrade.adapters.results` beside it. `where`: arguments of `core.scoring_config`.

    The prompt (text or turns) is `extra_info[prompt_key]`, else `extra_info["question"]`; samples of a split named
    test or the like are scored as evaluation. Raises `ValueError` where there is no prompt.
    """
    told = extra_info or {}
    item = ScoreItem(
        prompt=_prompt(told, prompt_key),
        completion=solution_str,
        reference=ground_truth if isinstance(ground_truth, str) and ground_truth else None,
    )
    scorer = Scorer(scoring_config(default_patience_s=_PATIENCE_S, **where))
    try:
        result = await scorer.score_one_async(item, purpose=purpose_of(told.get("split")))
    except ServiceUnavailableError:
        if unscored == "error":
            raise
        return {"score": math.nan} | empty_metrics()
    return {"score": reward_of(result, unscored)} | metrics_of(result)


def _prompt(told: dict[str, Any], key: str) -> str | Conversation:
    for name in (key, "question"):
        if told.get(name) is not None:
            return text_or_conversation(told[name])
    raise ValueError(f"verl passes no prompt to a reward function: put it into the data set's extra_info as {key!r}")
