"""What the judge needs of an engine: a distribution over a few one-token answers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from regrade.contracts import Usage

ChatMessages = Sequence[Mapping[str, str]]


class ChoiceAnswer(NamedTuple):
    """Probability of each choice, in the order asked, summing to 1, and what the call was billed."""

    probabilities: tuple[float, ...]
    usage: Usage


class Engine(Protocol):
    """An inference server. Calls raise `services.kit.http.UpstreamError` and leave retries to that layer."""

    model: str

    async def choose(self, messages: ChatMessages, choices: Sequence[str]) -> ChoiceAnswer:
        """The model's distribution over `choices` (one token each) as its next answer."""
        ...

    async def ready(self) -> bool:
        """Whether the server answers."""
        ...
