"""Plain OpenAI chat completions: a few tokens with their top log-probabilities, renormalised over the options.

This dialect is for servers that cannot constrain the answer. Other dialects derive from it, and override what differs:
`signature`, `open`, `_constraint` and `_masses`.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

from services.kit.http.client import JsonClient
from services.kit.http.errors import UpstreamDenied, UpstreamError, UpstreamMalformed, UpstreamRefused
from services.kit.http.params import params_digest, with_params
from services.kit.lru_cache import LruCache
from services.reward.judge.engine.base import (
    ChatMessages,
    ChoiceResult,
    Distribution,
    Distributions,
    EngineAnswer,
    Sampling,
    TextResult,
)
from services.reward.judge.engine.control import ControlQuestions
from services.reward.judge.engine.responses import (
    PARAMS_SETTING,
    ROUNDING,
    Choice,
    Completion,
    Position,
    check_answered,
    positions_of,
    probability,
    read_single,
    text_of,
)

CHAT = "/v1/chat/completions"
NEUTRAL_SAMPLING = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""For engines that otherwise take sampling parameters from the model's configuration, which skew the distribution."""

_TOP_TOKENS = 20
"""Most candidates a position that the OpenAI API returns."""
_MIN_MASS = 0.05
"""With less probability on all options together the model meant another answer, and their ratio is noise (I3)."""

NO_SUCH_ROUTE = frozenset({404, 405})
_CANDIDATES_A_REQUEST = 2_048
_MAX_CANDIDATES = 16_384
NO_PARAMS: Mapping[str, Any] = {}

T = TypeVar("T")


class Signature(NamedTuple):
    """A path that only one kind of server has, and a key of the JSON object there."""

    path: str
    key: str


class OpenAIEngine:
    """An endpoint with `/v1/chat/completions` and `logprobs`."""

    signature: ClassVar[Signature | None] = None
    """How `auto` recognises the server; None for a dialect that any server may speak."""
    batch_size = 1
    cache_slots = 0

    def __init__(self, client: JsonClient, model: str, *, params: Mapping[str, Any] = NO_PARAMS) -> None:
        """`params` are merged into every request; null removes a field."""
        self._client = client
        self._params = params
        self.model = model
        self.identity = f"{model} {params_digest(params)}".rstrip()
        self.denial: UpstreamDenied | None = None
        self._is_special: LruCache[str, bool] = LruCache(_MAX_CANDIDATES)
        self._controls = ControlQuestions(self._post)

    @classmethod
    async def open(
        cls, client: JsonClient, model: str, batch_size: int, params: Mapping[str, Any] = NO_PARAMS
    ) -> "OpenAIEngine":
        """The engine, after probing what this kind of server can do. `batch_size` is the most that is wanted.

        Raises `UpstreamError`.
        """
        return cls(client, model, params=params)

    async def choose(
        self, conversations: Sequence[ChatMessages], options: Sequence[str], *, positions: int = 1
    ) -> list[ChoiceResult]:
        """See `Engine`. `UpstreamMalformed` where an answer gives the options no probability."""
        payload = {
            "model": self.model,
            "max_tokens": 2 * positions - 1,  # a line break stands between two answers
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": _TOP_TOKENS,
            **self._constraint(options, positions),
        }
        read = partial(self._read, options=options, positions=positions)
        return await self._complete(conversations, with_params(payload, self._params), read)

    async def write(self, conversations: Sequence[ChatMessages], sampling: Sampling) -> list[TextResult]:
        """See `Engine`. `UpstreamMalformed` where nothing was written."""
        payload = with_params(self._text_payload(sampling), self._params)
        return await self._complete(conversations, payload, text_of)

    async def special_tokens(self, candidates: Sequence[str]) -> frozenset[str]:
        """See `Engine`. All of them where the tokenizer does not respond."""
        kinds = {text: self._is_special.find(text) for text in candidates}
        new = [text for text, kind in kinds.items() if kind is None]
        for start in range(0, len(new), _CANDIDATES_A_REQUEST):
            chunk = new[start : start + _CANDIDATES_A_REQUEST]
            try:
                special = await self._single_tokens(chunk)
            except UpstreamError:
                return frozenset(candidates)
            for text in chunk:
                kinds[text] = self._is_special[text] = text in special
        return frozenset(text for text, kind in kinds.items() if kind)

    async def _single_tokens(self, candidates: Sequence[str]) -> frozenset[str]:
        """The candidates that are one special token of the engine's tokenizer. Raises `UpstreamError`."""
        return frozenset()

    async def ready(self) -> bool:
        """Whether the server responds, and refuses neither the key nor everything."""
        try:
            await self._client.get("/v1/models")
        except UpstreamDenied as error:
            return error.status in NO_SUCH_ROUTE and self.denial is None
        except UpstreamRefused:
            return self.denial is None
        except UpstreamError:
            return False
        return self.denial is None

    async def _complete(
        self, conversations: Sequence[ChatMessages], payload: dict[str, Any], read: Callable[[Choice], T]
    ) -> list[EngineAnswer[T] | UpstreamError]:
        """One request for each conversation."""

        async def complete(messages: ChatMessages) -> EngineAnswer[T]:
            completion = await self._ask(payload, messages)
            [choice] = completion.in_order(1)
            return EngineAnswer(read(choice), completion.total_usage)

        return await for_each(conversations, complete)

    async def _ask(self, payload: Mapping[str, Any], messages: ChatMessages) -> Completion:
        """The answer to one conversation. A server that refuses all of them is not asked further (`denial`)."""
        if self.denial is not None:
            raise UpstreamDenied(str(self.denial), self.denial.status)
        try:
            completion = await self._post(payload, messages)
        except UpstreamDenied as error:
            self.denial = error
            raise
        except UpstreamRefused as error:
            self.denial = self.denial or await self._controls.denial(payload, messages)
            if self.denial is not None:
                raise UpstreamDenied(str(self.denial), self.denial.status) from error
            raise
        self._controls.note_answer(payload, messages)
        return completion

    async def _post(self, payload: Mapping[str, Any], messages: ChatMessages) -> Completion:
        completion: Completion = await self._client.post(
            CHAT, {**payload, "messages": list(messages)}, read=read_single
        )
        return completion

    def _read(self, choice: Choice, options: Sequence[str], positions: int) -> Distributions:
        check_answered(choice)
        return distributions_of(positions_of(choice), options, positions, self._masses)

    def _text_payload(self, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
        }

    def _constraint(self, options: Sequence[str], positions: int) -> dict[str, Any]:
        """Fields of the payload that limit the answer to one of `options` on each of `positions` lines."""
        return {}

    def _masses(self, position: Position) -> dict[str, float]:
        """The probability of each candidate at a position. Raises `UpstreamMalformed`."""
        return masses_by_logprob(position)


async def for_each(
    conversations: Sequence[ChatMessages], complete: Callable[[ChatMessages], Awaitable[T]]
) -> list[T | UpstreamError]:
    """Complete all conversations concurrently; an `UpstreamError` becomes the result of the one that raised it."""

    async def result(messages: ChatMessages) -> T | UpstreamError:
        try:
            return await complete(messages)
        except UpstreamError as error:
            return error

    return list(await asyncio.gather(*map(result, conversations)))


def one_option_a_line(options: Sequence[str], positions: int) -> str:
    """A regular expression for one of `options` on each of `positions` lines."""
    return r"\n".join(["(" + "|".join(options) + ")"] * positions)


def sum_masses(tokens: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The probability of each token without white space: several tokens can spell one option."""
    masses: dict[str, float] = {}
    for token, mass in tokens:
        option = token.strip()
        masses[option] = masses.get(option, 0.0) + mass
    return masses


def masses_by_logprob(position: Position) -> dict[str, float]:
    """The probability of each candidate, of a server that returns logarithms."""
    return sum_masses([(entry.token, probability(entry.logprob)) for entry in position.top_logprobs])


def distributions_of(
    tokens: Sequence[Position],
    options: Sequence[str],
    positions: int,
    masses: Callable[[Position], Mapping[str, float]] = masses_by_logprob,
) -> Distributions:
    """The distribution over `options` at each of `positions` answers. Raises `UpstreamMalformed`.

    A single answer is the first token, whatever was sampled there; of several, each is a token that is an option.
    """
    answers = tokens[:1] if positions == 1 else [token for token in tokens if token.token.strip() in options]
    if len(answers) != positions:
        raise UpstreamMalformed(f"{len(answers)} answers instead of {positions}")
    return tuple([_normalised(masses(position), options) for position in answers])


def _normalised(masses: Mapping[str, float], options: Sequence[str]) -> Distribution:
    option_masses = [masses.get(option, 0.0) for option in options]
    total = math.fsum(option_masses)
    if not 0.0 <= total <= 1.0 + ROUNDING or min(option_masses) < 0.0:
        raise UpstreamMalformed(f"no probabilities of the levels in the engine's answer: {option_masses}")
    if total < _MIN_MASS:
        raise UpstreamMalformed(
            f"the model did not answer with a level: the levels have {total:.1e} of its probability "
            f"(if it thinks before it answers, see {PARAMS_SETTING} in docs/judges.md)"
        )
    return tuple([mass / total for mass in option_masses])
