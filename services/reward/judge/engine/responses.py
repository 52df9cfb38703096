"""The parts of a chat completion that the judge reads; other fields are ignored.

A choice of a batched response is decoded on its own, so that a malformed one fails alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from services.kit.http.chat import answer_text, read_message, still_thinking
from services.kit.http.errors import UpstreamMalformed
from services.kit.http.refusals import ErrorInside
from services.kit.results import Usage

T = TypeVar("T")

_NULL = msgspec.Raw(b"null")

PARAMS_SETTING = "REGRADE_REWARD_JUDGE_PARAMS"
"""The setting that changes how the judge's model thinks."""
ROUNDING = 1e-3
"""How far above 1 a probability may be, and above 0 its logarithm, by rounding in the engine."""


class TopToken(msgspec.Struct, gc=False):
    """A candidate token at a position, with its probability (llama.cpp) or log-probability (all others)."""

    token: str
    logprob: float | None = None
    prob: float | None = None


class Position(msgspec.Struct, gc=False):
    """The token at a position, and the most likely candidates there."""

    token: str
    top_logprobs: list[TopToken] = []
    top_probs: list[TopToken] = []


class _Logprobs(msgspec.Struct, gc=False):
    content: list[Position]


class Choice(msgspec.Struct, gc=False):
    """The answer to one conversation, its content not decoded."""

    index: int = 0
    message: msgspec.Raw = _NULL
    logprobs: msgspec.Raw = _NULL
    error: Any = None


class Completion(msgspec.Struct, gc=False):
    """A response: a choice for each conversation, and the usage of all of them together."""

    choices: list[Choice]
    usage: Any = None

    @property
    def total_usage(self) -> Usage:
        """The usage as one call. A count that is missing or no count is 0: a good answer is not lost for it."""
        usage = self.usage if isinstance(self.usage, dict) else {}
        details = usage.get("prompt_tokens_details")
        return Usage(
            judge_calls=1,
            prompt_tokens=_count(usage, "prompt_tokens"),
            cached_tokens=_count(details, "cached_tokens") if isinstance(details, dict) else 0,
            completion_tokens=_count(usage, "completion_tokens"),
        )

    def in_order(self, expected: int) -> list[Choice]:
        """The choices by index. Raises `UpstreamMalformed` unless each of `expected` indices has exactly one."""
        by_index = {choice.index: choice for choice in self.choices}
        if len(self.choices) != expected or by_index.keys() != set(range(expected)):
            indices = sorted(choice.index for choice in self.choices)[: expected + 1]
            raise UpstreamMalformed(f"not one choice for each of {expected} conversations, but those of {indices}")
        return [by_index[n] for n in range(expected)]


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return max(0, value) if isinstance(value, int) else 0


def read_completion(body: bytes) -> Completion:
    """Decode the answer to several conversations. Raises `ValueError`."""
    return _COMPLETION.decode(body)


def read_single(body: bytes) -> Completion:
    """Decode the answer to one conversation. Raises `ValueError`, `ErrorInside` where its choice is an error."""
    completion = _COMPLETION.decode(body)
    for choice in completion.choices:
        if choice.error:
            raise ErrorInside(choice.error)
    return completion


def positions_of(choice: Choice) -> Sequence[Position]:
    """The tokens of a choice. Raises `UpstreamMalformed`."""
    return _decode(_LOGPROBS.decode, choice.logprobs, "no token probabilities in the engine's answer").content


def text_of(choice: Choice) -> str:
    """The text of a choice, stripped. Raises `UpstreamMalformed`, also for an empty one."""
    return answer_text(read_message(choice.message), PARAMS_SETTING)


def check_answered(choice: Choice) -> None:
    """Raises `UpstreamMalformed` for a choice that holds a model's thinking in place of an answer."""
    raw = bytes(choice.message)
    if (b"reasoning" in raw or b"think" in raw.lower()) and read_message(raw).thinks:
        raise UpstreamMalformed(still_thinking(PARAMS_SETTING))


def probability(logprob: float | None) -> float:
    """A token's probability. JSON has no minus infinity: null stands for it. Raises `UpstreamMalformed`.

    Rounding may take a logarithm above 0 by a hair; anything more is no probability.
    """
    if logprob is None:
        return 0.0
    if not logprob <= ROUNDING:
        raise UpstreamMalformed(f"a log-probability of {logprob} in the engine's answer")
    return math.exp(min(logprob, 0.0))


def _decode(decode: Callable[[msgspec.Raw], T], raw: msgspec.Raw, problem: str) -> T:
    try:
        return decode(raw)
    except ValueError as error:
        raise UpstreamMalformed(f"{problem} ({error})") from error


_COMPLETION = msgspec.json.Decoder(Completion)
_LOGPROBS = msgspec.json.Decoder(_Logprobs)
