"""llama.cpp's server: a bias and a grammar constrain the tokens, and probabilities are returned after both.

The grammar alone is not enough: the server applies it only if its first, unconstrained sample violates it, and
otherwise returns the unconstrained distribution. An equal bias on every option keeps their ratios, and leaves other
tokens without mass.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from services.kit.http.client import JsonClient
from services.kit.http.errors import UpstreamMalformed
from services.reward.judge.engine.base import Sampling
from services.reward.judge.engine.openai import NO_PARAMS, OpenAIEngine, Signature, sum_masses
from services.reward.judge.engine.responses import ROUNDING, Position

_PROPERTIES = "/props"
_BIAS = 100.0
_SPARE_CANDIDATES = 2


class LlamaCppEngine(OpenAIEngine):
    """Samplers that skew the distribution are off, so that over the options it is the model's own.

    Behind the bias the options are the likeliest tokens. A `top_k` of little more than their number saves the server
    from sorting its vocabulary for each answer, which takes longer than reading a short question (32 answers a second
    instead of 9, measured on two cores).
    """

    signature = Signature(_PROPERTIES, "default_generation_settings")

    def __init__(
        self, client: JsonClient, model: str, *, params: Mapping[str, Any] = NO_PARAMS, cache_slots: int = 0
    ) -> None:
        super().__init__(client, model, params=params)
        self.cache_slots = cache_slots

    @classmethod
    async def open(
        cls, client: JsonClient, model: str, batch_size: int, params: Mapping[str, Any] = NO_PARAMS
    ) -> "LlamaCppEngine":
        """The engine, with as many slots as the server reports; it has no batched route."""
        properties = await client.find(_PROPERTIES)
        slots = properties.get("total_slots") if isinstance(properties, dict) else None
        return cls(client, model, params=params, cache_slots=slots if isinstance(slots, int) and slots > 0 else 0)

    async def _single_tokens(self, candidates: Sequence[str]) -> frozenset[str]:
        """Those that are one token if special tokens are parsed, and not if they are taken as text."""
        parsed, plain = await asyncio.gather(*(self._pieces(candidates, parse_special=on) for on in (True, False)))
        return (parsed - plain) & frozenset(candidates)

    async def _pieces(self, candidates: Sequence[str], *, parse_special: bool) -> frozenset[str]:
        body = {"content": "\n" + "\n".join(candidates), "parse_special": parse_special, "with_pieces": True}
        answer = await self._client.find("/tokenize", body)
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        pieces = [token.get("piece") for token in tokens or () if isinstance(token, dict)]
        return frozenset(piece for piece in pieces if isinstance(piece, str))

    def _constraint(self, options: Sequence[str], positions: int) -> dict[str, Any]:
        alternatives = " | ".join(f'"{option}"' for option in options)
        lines = ' "\\n" '.join(["choice"] * positions)
        return {
            "temperature": 1.0,
            "seed": 0,
            "top_k": len(options) + _SPARE_CANDIDATES,
            "top_p": 1.0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "logit_bias": [[option, _BIAS] for option in options],
            "grammar": f"root ::= {lines}\nchoice ::= {alternatives}",
            "top_logprobs": len(options) + _SPARE_CANDIDATES,
            "post_sampling_probs": True,
            "cache_prompt": True,
        }

    def _text_payload(self, sampling: Sampling) -> dict[str, Any]:
        return super()._text_payload(sampling) | {"cache_prompt": True}

    def _masses(self, position: Position) -> dict[str, float]:
        if any(entry.prob is None or not 0.0 <= entry.prob <= 1.0 + ROUNDING for entry in position.top_probs):
            raise UpstreamMalformed("a token without a probability, or with an impossible one, in the engine's answer")
        return sum_masses([(entry.token, entry.prob or 0.0) for entry in position.top_probs])
