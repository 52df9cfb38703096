"""llama.cpp's server: a bias and a grammar constrain the tokens, and it tells the probabilities after both.

The grammar alone does not do: the server applies it only when its first, free sample breaks it, and
otherwise tells the unconstrained distribution. An equal bias on every choice leaves their ratios as
they are and all other tokens without mass.
"""

from collections.abc import Sequence
from typing import Any

from services.kit.http.client import JsonEndpoint, UpstreamMalformed
from services.reward.judge.engine.base import Sampling
from services.reward.judge.engine.openai import OpenAIEngine, summed
from services.reward.judge.engine.responses import Position

_BIAS = 100.0
_SPARE = 2


class LlamaCppEngine(OpenAIEngine):
    """The samplers that skew the distribution are switched off, so that among the choices it is the model's own.

    Behind the bias the choices are the likeliest tokens: to keep only as many spares the server sorting its vocabulary
    for each answer, which takes longer than reading a short question (32 answers a second in place of 9 on two cores).
    """

    def __init__(self, endpoint: JsonEndpoint, model: str, *, slots: int = 0) -> None:
        super().__init__(endpoint, model)
        self.slots = slots

    def _constraint(self, choices: Sequence[str], positions: int) -> dict[str, Any]:
        alternatives = " | ".join(f'"{choice}"' for choice in choices)
        lines = ' "\\n" '.join(["choice"] * positions)
        return {
            "temperature": 1.0,
            "seed": 0,
            "top_k": len(choices) + _SPARE,
            "top_p": 1.0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "logit_bias": [[choice, _BIAS] for choice in choices],
            "grammar": f"root ::= {lines}\nchoice ::= {alternatives}",
            "top_logprobs": len(choices) + _SPARE,
            "post_sampling_probs": True,
            "cache_prompt": True,
        }

    def _text_payload(self, sampling: Sampling) -> dict[str, Any]:
        return super()._text_payload(sampling) | {"cache_prompt": True}

    def _masses(self, position: Position) -> dict[str, float]:
        if any(entry.prob is None for entry in position.top_probs):
            raise UpstreamMalformed("a token without a probability")
        return summed([(entry.token, entry.prob or 0.0) for entry in position.top_probs])
