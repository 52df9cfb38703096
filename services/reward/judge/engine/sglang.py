"""SGLang: a regular expression constrains the answer, and log-probabilities are computed after the constraint.

Written from its documented API and tested against a scripted server only. It reports cached tokens if it was started
with `--enable-cache-report`.
"""

from collections.abc import Sequence
from typing import Any

from services.reward.judge.engine.openai import NEUTRAL_SAMPLING, OpenAIEngine, Signature, one_option_a_line


class SglangEngine(OpenAIEngine):
    """Greedy decoding: log-probabilities are those at temperature 1, and each line follows the likeliest answers."""

    signature = Signature("/get_model_info", "model_path")

    def _constraint(self, options: Sequence[str], positions: int) -> dict[str, Any]:
        return {"regex": one_option_a_line(options, positions), "top_logprobs": len(options), **NEUTRAL_SAMPLING}
