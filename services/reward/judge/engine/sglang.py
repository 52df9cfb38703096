"""SGLang: a regular expression constrains the answer; its log-probabilities are those after the constraint.

Written by its documented API and tested against a scripted server only. It tells cached tokens when it
was started with `--enable-cache-report`.
"""

from collections.abc import Sequence
from typing import Any

from services.reward.judge.engine.openai import UNSKEWED, OpenAIEngine, one_answer_a_line


class SglangEngine(OpenAIEngine):
    """Greedy, so that the distribution told is the one at temperature 1 and each line follows the likeliest."""

    def _constraint(self, choices: Sequence[str], positions: int) -> dict[str, Any]:
        return {"regex": one_answer_a_line(choices, positions), "top_logprobs": len(choices), **UNSKEWED}
