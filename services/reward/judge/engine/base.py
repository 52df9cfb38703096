"""What the judge needs of an engine: distributions over a few one-token answers, and short written text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from services.kit.http.client import UpstreamError
from services.kit.results import Usage

ChatMessages = Sequence[Mapping[str, str]]
Distribution = tuple[float, ...]
"""Probability of each choice, in the order asked; sums to 1."""


class ChoiceAnswer(NamedTuple):
    """One distribution a position asked for, and what the call was billed."""

    distributions: tuple[Distribution, ...]
    usage: Usage


class TextAnswer(NamedTuple):
    """What the model wrote, cut off at the tokens allowed, and what the call was billed."""

    text: str
    usage: Usage


class Sampling(NamedTuple):
    """How text is written: at most `max_tokens` tokens, at `temperature`, repeatable by `seed` up to rounding."""

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


class Engine(Protocol):
    """An inference server. Both calls answer in the order of `conversations`; one that fails has its error in its
    place, and the others go on. Retries are left to the layer below."""

    model: str
    batch: int
    """Conversations that one call of the server takes at most; 1 where it has no batched route."""
    slots: int
    """Slots with a prefix cache each; 0 where all conversations share one, and their order does not matter."""

    async def choose(
        self, conversations: Sequence[ChatMessages], choices: Sequence[str], *, positions: int = 1
    ) -> list[ChoiceAnswer | UpstreamError]:
        """The model's distribution over `choices` at each of `positions` lines of its next turn.

        A choice is one token, of plain letters and digits.
        """
        ...

    async def write(
        self, conversations: Sequence[ChatMessages], sampling: Sampling
    ) -> list[TextAnswer | UpstreamError]:
        """The model's next turn, as text."""
        ...

    async def ready(self) -> bool:
        """Whether the server answers."""
        ...
