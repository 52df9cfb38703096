"""Plain OpenAI chat completions: one token, its top log-probabilities, renormalised over the choices.

The dialect for servers that cannot constrain the answer; others refine `_payload` and `_masses`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regrade.contracts import Usage
from services.kit.http import JsonEndpoint, UpstreamError, UpstreamMalformed
from services.reward.engine.base import ChatMessages, ChoiceAnswer

_TOP_TOKENS = 20


class OpenAIEngine:
    """An endpoint that speaks `/v1/chat/completions` with `logprobs`."""

    def __init__(self, endpoint: JsonEndpoint, model: str) -> None:
        self._endpoint = endpoint
        self.model = model

    async def choose(self, messages: ChatMessages, choices: Sequence[str]) -> ChoiceAnswer:
        """The distribution over `choices`. Raises `UpstreamMalformed` when the answer names none of them."""
        answer = await self._endpoint.post("/v1/chat/completions", self._payload(messages, choices))
        try:
            first = answer["choices"][0]["logprobs"]["content"][0]
            masses = self._masses(first)
            usage = _usage(answer.get("usage") or {})
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UpstreamMalformed(f"no token probabilities in the engine's answer ({error!r})") from error
        return ChoiceAnswer(_normalised([masses.get(choice, 0.0) for choice in choices]), usage)

    async def ready(self) -> bool:
        """Whether the server lists its models."""
        try:
            await self._endpoint.get("/v1/models")
        except UpstreamError:
            return False
        return True

    def _payload(self, messages: ChatMessages, choices: Sequence[str]) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": _TOP_TOKENS,
        }

    def _masses(self, position: Mapping[str, Any]) -> dict[str, float]:
        top = position["top_logprobs"]
        return summed((entry["token"], math.exp(min(float(entry["logprob"]), 0.0))) for entry in top)


def summed(tokens: Iterable[tuple[Any, float]]) -> dict[str, float]:
    """The mass of each token, white space aside: several tokens can spell one choice."""
    masses: dict[str, float] = {}
    for token, mass in tokens:
        choice = str(token).strip()
        masses[choice] = masses.get(choice, 0.0) + mass
    return masses


def _normalised(masses: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(masses)
    if not math.isfinite(total) or total <= 0.0 or min(masses) < 0.0:
        raise UpstreamMalformed("the engine's answer gives the choices no probabilities")
    return tuple(mass / total for mass in masses)


def _usage(told: Mapping[str, Any]) -> Usage:
    details = told.get("prompt_tokens_details") or {}
    return Usage(
        judge_calls=1,
        prompt_tokens=max(0, int(told.get("prompt_tokens") or 0)),
        cached_tokens=max(0, int(details.get("cached_tokens") or 0)),
        completion_tokens=max(0, int(told.get("completion_tokens") or 0)),
    )
