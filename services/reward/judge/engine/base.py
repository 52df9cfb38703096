"""What the judge requires of an engine: distributions over a few one-token options, and short written text."""

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from services.kit.http.errors import UpstreamDenied, UpstreamError
from services.kit.results import Usage

T_co = TypeVar("T_co", covariant=True)

ChatMessages = Sequence[Mapping[str, str]]
"""The turns of a conversation, each with a `role` and `content`."""
Distribution = tuple[float, ...]
"""Probability of each option, in the order of the options; sums to 1."""
Distributions = tuple[Distribution, ...]
"""One distribution for each position of an answer."""


class EngineAnswer(NamedTuple, Generic[T_co]):
    """The answer to one conversation, and what it cost."""

    value: T_co
    usage: Usage


ChoiceResult = EngineAnswer[Distributions] | UpstreamError
TextResult = EngineAnswer[str] | UpstreamError


class Sampling(NamedTuple):
    """How text is written: at most `max_tokens` tokens, at `temperature`, repeatable by `seed` up to rounding."""

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


class Engine(Protocol):
    """An inference server.

    Both calls return results in the order of `conversations`. A conversation that fails has its error as its result,
    and the others are unaffected. Retries are left to the HTTP client.
    """

    model: str
    identity: str
    """Distinguishes answers of this engine from those of another model, or with other parameters."""
    denial: UpstreamDenied | None
    """Why it refuses every conversation, once it does; such an engine is opened again."""
    batch_size: int
    """Most conversations in one request; 1 without a batched route."""
    cache_slots: int
    """Slots with a prefix cache each; 0 where all conversations share one, and their order does not matter."""

    async def choose(
        self, conversations: Sequence[ChatMessages], options: Sequence[str], *, positions: int = 1
    ) -> list[ChoiceResult]:
        """The model's distribution over `options` on each of the `positions` lines of its next turn.

        An option is one token of plain letters and digits.
        """
        ...

    async def write(self, conversations: Sequence[ChatMessages], sampling: Sampling) -> list[TextResult]:
        """The model's next turn as text."""
        ...

    async def special_tokens(self, candidates: Sequence[str]) -> frozenset[str]:
        """Those of the texts that its tokenizer takes for one special token; none where it cannot be found out."""
        ...

    async def ready(self) -> bool:
        """Whether the server responds."""
        ...
