"""What servers answer to a chat completion, as far as a judge reads it. Anything else in an answer is passed over.

A choice is read apart from the answer it came in: what is wrong with one says nothing about the others.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from services.kit.http.client import UpstreamMalformed
from services.kit.results import Usage

T = TypeVar("T")

_NULL = msgspec.Raw(b"null")


class TopToken(msgspec.Struct, gc=False):
    """A token that could have stood at a position; llama.cpp tells its probability, all others its logarithm."""

    token: str
    logprob: float | None = None
    prob: float | None = None


class Position(msgspec.Struct, gc=False):
    """A token of the answer, and those that could have stood there."""

    token: str
    top_logprobs: list[TopToken] = []
    top_probs: list[TopToken] = []


class _Logprobs(msgspec.Struct, gc=False):
    content: list[Position]


class _Message(msgspec.Struct, gc=False):
    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    """One answer; what it holds is read where it is asked for."""

    index: int = 0
    message: msgspec.Raw = _NULL
    logprobs: msgspec.Raw = _NULL


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Bill(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class Completion(msgspec.Struct, gc=False):
    """An answer: as many choices as there were conversations, and what all of them were billed."""

    choices: list[Choice]
    usage: _Bill | None = None

    @property
    def billed(self) -> Usage:
        """The bill; never negative."""
        told = self.usage or _Bill()
        details = told.prompt_tokens_details or _Details()
        return Usage(
            judge_calls=1,
            prompt_tokens=max(0, told.prompt_tokens or 0),
            cached_tokens=max(0, details.cached_tokens or 0),
            completion_tokens=max(0, told.completion_tokens or 0),
        )

    def in_order(self, expected: int) -> list[Choice]:
        """Its choices by index. Raises `UpstreamMalformed` unless there is one each."""
        told = {choice.index: choice for choice in self.choices}
        try:
            return [told[n] for n in range(expected)]
        except KeyError as error:
            raise UpstreamMalformed(f"not one choice for each conversation ({error!r})") from error


def read_completion(body: bytes) -> Completion:
    """An answer's body. Raises `ValueError`."""
    return _COMPLETION.decode(body)


def positions_of(choice: Choice) -> Sequence[Position]:
    """The tokens of a choice. Raises `UpstreamMalformed`."""
    return _read(_LOGPROBS.decode, choice.logprobs, "no token probabilities in the engine's answer").content


def text_of(choice: Choice) -> str:
    """What a choice says; "" for nothing. Raises `UpstreamMalformed`."""
    return _read(_MESSAGE.decode, choice.message, "no text in the engine's answer").content or ""


def probability(logprob: float | None) -> float:
    """Of a token, whatever a server makes of rounding; what JSON has no number for is minus infinity."""
    return 0.0 if logprob is None else math.exp(min(logprob, 0.0))


def _read(decode: Callable[[msgspec.Raw], T], raw: msgspec.Raw, wrong: str) -> T:
    try:
        return decode(raw)
    except ValueError as error:
        raise UpstreamMalformed(f"{wrong} ({error})") from error


_COMPLETION = msgspec.json.Decoder(Completion)
_LOGPROBS = msgspec.json.Decoder(_Logprobs)
_MESSAGE = msgspec.json.Decoder(_Message)
