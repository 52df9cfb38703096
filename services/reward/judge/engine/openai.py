"""Plain OpenAI chat completions: a few tokens with their top log-probabilities, renormalised over the choices.

The dialect for servers that cannot constrain the answer; others refine `_constraint` and `_masses`.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from services.kit.http.client import JsonEndpoint, UpstreamError, UpstreamMalformed
from services.reward.judge.engine.base import ChatMessages, ChoiceAnswer, Distribution, Sampling, TextAnswer
from services.reward.judge.engine.responses import (
    Choice,
    Completion,
    Position,
    positions_of,
    probability,
    read_completion,
    text_of,
)

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
            answer: Completion = await self._endpoint.post(CHAT, payload, read=read_completion)
            [choice] = answer.in_order(1)
            return ChoiceAnswer(self.read_levels(choice, choices, positions), answer.billed)

        return await each(conversations, one)

    async def write(
        self, conversations: Sequence[ChatMessages], sampling: Sampling
    ) -> list[TextAnswer | UpstreamError]:
        """One call a conversation. `UpstreamMalformed` stands where nothing was written."""

        async def one(messages: ChatMessages) -> TextAnswer:
            payload = self._text_payload(sampling) | {"messages": list(messages)}
            answer: Completion = await self._endpoint.post(CHAT, payload, read=read_completion)
            [choice] = answer.in_order(1)
            return TextAnswer(read_text(choice), answer.billed)

        return await each(conversations, one)

    async def ready(self) -> bool:
        """Whether the server lists its models."""
        try:
            await self._endpoint.get("/v1/models")
        except UpstreamError:
            return False
        return True

    def read_levels(self, answer: Choice, choices: Sequence[str], positions: int) -> tuple[Distribution, ...]:
        """The distributions in an answer. Raises `UpstreamMalformed`."""
        return levels_at(positions_of(answer), choices, positions, self._masses)

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

    def _masses(self, position: Position) -> dict[str, float]:
        return by_logprob(position)


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


def read_text(answer: Choice) -> str:
    """What an answer says. Raises `UpstreamMalformed` when that is nothing."""
    text = text_of(answer).strip()
    if not text:
        raise UpstreamMalformed("the engine wrote nothing")
    return text


def summed(tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mass of each token, white space aside: several tokens can spell one choice."""
    masses: dict[str, float] = {}
    for token, mass in tokens:
        choice = token.strip()
        masses[choice] = masses.get(choice, 0.0) + mass
    return masses


def by_logprob(position: Position) -> dict[str, float]:
    """The mass of each token at a position, of a server that tells logarithms."""
    return summed([(entry.token, probability(entry.logprob)) for entry in position.top_logprobs])


def levels_at(
    content: Sequence[Position],
    choices: Sequence[str],
    positions: int,
    masses_of: Callable[[Position], Mapping[str, float]] = by_logprob,
) -> tuple[Distribution, ...]:
    """The distributions over `choices` at the tokens that answer. Raises `UpstreamMalformed`."""
    told = _asked_positions(content, choices, positions)
    return tuple([_normalised(masses_of(position), choices) for position in told])


def one_answer_a_line(choices: Sequence[str], positions: int) -> str:
    """A regular expression for one of `choices` on each of `positions` lines."""
    return r"\n".join(["(" + "|".join(choices) + ")"] * positions)


def _asked_positions(content: Sequence[Position], choices: Sequence[str], positions: int) -> Sequence[Position]:
    """The tokens that answer: the first of one answer, whatever was sampled; of several, those that are choices."""
    answers = content[:1] if positions == 1 else [told for told in content if told.token.strip() in choices]
    if len(answers) != positions:
        raise UpstreamMalformed(f"{len(answers)} answers, {positions} asked for")
    return answers


def _normalised(masses: Mapping[str, float], choices: Sequence[str]) -> Distribution:
    told = [masses.get(choice, 0.0) for choice in choices]
    total = math.fsum(told)
    if not math.isfinite(total) or min(told) < 0.0:
        raise UpstreamMalformed("the engine's answer gives the choices no probabilities")
    if total < _LEAST_MASS:
        raise UpstreamMalformed(
            f"the model did not answer with a level: the levels have {total:.1e} of its probability"
        )
    return tuple([mass / total for mass in told])
