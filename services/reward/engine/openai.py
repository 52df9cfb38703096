"""Plain OpenAI chat completions: a few tokens with their top log-probabilities, renormalised over the choices.

The dialect for servers that cannot constrain the answer; others refine `_constraint` and `_masses`.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from regrade.contracts import Usage
from services.kit.http import JsonEndpoint, UpstreamError, UpstreamMalformed
from services.reward.engine.base import ChatMessages, ChoiceAnswer, Distribution, Sampling, TextAnswer

CHAT = "/v1/chat/completions"
UNSKEWED = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""For engines that else sample as the model's own configuration says, which would bend the distribution."""

_TOP_TOKENS = 20
_LEAST_MASS = 0.05
"""With less on all choices together the model said something else, and their ratio is noise (I3)."""

T = TypeVar("T")


class OpenAIEngine:
    """An endpoint that speaks `/v1/chat/completions` with `logprobs`."""

    batch = 1
    slots = 0

    def __init__(self, endpoint: JsonEndpoint, model: str) -> None:
        self._endpoint = endpoint
        self.model = model

    async def choose(
        self, conversations: Sequence[ChatMessages], choices: Sequence[str], *, positions: int = 1
    ) -> list[ChoiceAnswer | UpstreamError]:
        """One call a conversation. `UpstreamMalformed` stands where the answer names none of the choices."""

        async def one(messages: ChatMessages) -> ChoiceAnswer:
            payload = self._choice_payload(choices, positions) | {"messages": list(messages)}
            return self.read_choice(await self._endpoint.post(CHAT, payload), choices, positions)

        return await each(conversations, one)

    async def write(
        self, conversations: Sequence[ChatMessages], sampling: Sampling
    ) -> list[TextAnswer | UpstreamError]:
        """One call a conversation. `UpstreamMalformed` stands where nothing was written."""

        async def one(messages: ChatMessages) -> TextAnswer:
            payload = self._text_payload(sampling) | {"messages": list(messages)}
            return read_text(await self._endpoint.post(CHAT, payload))

        return await each(conversations, one)

    async def ready(self) -> bool:
        """Whether the server lists its models."""
        try:
            await self._endpoint.get("/v1/models")
        except UpstreamError:
            return False
        return True

    def read_choice(
        self, answer: Mapping[str, Any], choices: Sequence[str], positions: int, index: int = 0
    ) -> ChoiceAnswer:
        """The distributions in an answer's choice `index`. Raises `UpstreamMalformed`."""
        try:
            content = answer["choices"][index]["logprobs"]["content"]
            usage = usage_of(answer)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UpstreamMalformed(f"no token probabilities in the engine's answer ({error!r})") from error
        return ChoiceAnswer(normalised_at(content, choices, positions, self._masses), usage)

    def _choice_payload(self, choices: Sequence[str], positions: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": 2 * positions - 1,  # a line break stands between two answers
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": _TOP_TOKENS,
            **self._constraint(choices, positions),
        }

    def _text_payload(self, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
        }

    def _constraint(self, choices: Sequence[str], positions: int) -> dict[str, Any]:
        return {}

    def _masses(self, position: Mapping[str, Any]) -> dict[str, float]:
        top = position["top_logprobs"]
        return summed((entry["token"], math.exp(min(float(entry["logprob"]), 0.0))) for entry in top)


async def each(
    conversations: Sequence[ChatMessages], ask: Callable[[ChatMessages], Awaitable[T]]
) -> list[T | UpstreamError]:
    """Ask for every conversation at once; an `UpstreamError` becomes the answer of the one it befell."""

    async def one(messages: ChatMessages) -> T | UpstreamError:
        try:
            return await ask(messages)
        except UpstreamError as error:
            return error

    return list(await asyncio.gather(*(one(messages) for messages in conversations)))


def read_text(answer: Mapping[str, Any], index: int = 0) -> TextAnswer:
    """The text of an answer's choice `index`. Raises `UpstreamMalformed` when there is none."""
    try:
        text = answer["choices"][index]["message"]["content"]
        usage = usage_of(answer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UpstreamMalformed(f"no text in the engine's answer ({error!r})") from error
    if not isinstance(text, str) or not text.strip():
        raise UpstreamMalformed("the engine wrote nothing")
    return TextAnswer(text.strip(), usage)


def summed(tokens: Iterable[tuple[Any, float]]) -> dict[str, float]:
    """The mass of each token, white space aside: several tokens can spell one choice."""
    masses: dict[str, float] = {}
    for token, mass in tokens:
        choice = str(token).strip()
        masses[choice] = masses.get(choice, 0.0) + mass
    return masses


def normalised_at(
    content: Sequence[Mapping[str, Any]],
    choices: Sequence[str],
    positions: int,
    masses_of: Callable[[Mapping[str, Any]], Mapping[str, float]],
) -> tuple[Distribution, ...]:
    """The distributions over `choices` at the tokens that answer. Raises `UpstreamMalformed`."""
    try:
        masses = [masses_of(position) for position in _asked_positions(content, choices, positions)]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UpstreamMalformed(f"no token probabilities in the engine's answer ({error!r})") from error
    return tuple(_normalised([m.get(choice, 0.0) for choice in choices]) for m in masses)


def one_answer_a_line(choices: Sequence[str], positions: int) -> str:
    """A regular expression for one of `choices` on each of `positions` lines."""
    return r"\n".join(["(" + "|".join(choices) + ")"] * positions)


def usage_of(answer: Mapping[str, Any]) -> Usage:
    """What a call was billed; never negative."""
    told = answer.get("usage") or {}
    details = told.get("prompt_tokens_details") or {}
    return Usage(
        judge_calls=1,
        prompt_tokens=max(0, int(told.get("prompt_tokens") or 0)),
        cached_tokens=max(0, int(details.get("cached_tokens") or 0)),
        completion_tokens=max(0, int(told.get("completion_tokens") or 0)),
    )


def _asked_positions(
    content: Sequence[Mapping[str, Any]], choices: Sequence[str], positions: int
) -> Sequence[Mapping[str, Any]]:
    """The tokens that answer: the first of one answer, whatever was sampled; of several, those that are choices."""
    if positions == 1:
        return [content[0]]
    answers = [position for position in content if str(position["token"]).strip() in choices]
    if len(answers) != positions:
        raise ValueError(f"{len(answers)} answers, {positions} asked for")
    return answers


def _normalised(masses: Sequence[float]) -> Distribution:
    total = math.fsum(masses)
    if not math.isfinite(total) or min(masses) < 0.0:
        raise UpstreamMalformed("the engine's answer gives the choices no probabilities")
    if total < _LEAST_MASS:
        raise UpstreamMalformed(
            f"the model did not answer with a level: the levels have {total:.1e} of its probability"
        )
    return tuple(mass / total for mass in masses)
