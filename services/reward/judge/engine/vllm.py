"""vLLM: structured outputs constrain the answer, and one request takes many conversations where the route exists.

vLLM applies the constraint before it computes log-probabilities, so these are normalised over the options.
The batched route returns usage sums without cached tokens; a single call reports cached tokens if the server was
started with `--enable-prompt-tokens-details`. Behind a router that does not forward `/version`, set `judge_dialect`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

from services.kit.http.client import JsonClient
from services.kit.http.errors import UpstreamDenied, UpstreamError, UpstreamMalformed, UpstreamRefused
from services.kit.results import Usage
from services.reward.judge.engine.base import ChatMessages, EngineAnswer
from services.reward.judge.engine.openai import (
    CHAT,
    NEUTRAL_SAMPLING,
    NO_PARAMS,
    NO_SUCH_ROUTE,
    OpenAIEngine,
    Signature,
    one_option_a_line,
)
from services.reward.judge.engine.responses import Choice, Completion, read_completion

BATCH = f"{CHAT}/batch"

T = TypeVar("T")


class VllmEngine(OpenAIEngine):
    """Sends up to `batch_size` conversations in one request; 1 does not use the batched route."""

    signature = Signature("/version", "version")

    def __init__(
        self, client: JsonClient, model: str, *, params: Mapping[str, Any] = NO_PARAMS, batch_size: int = 1
    ) -> None:
        super().__init__(client, model, params=params)
        self.batch_size = batch_size

    @classmethod
    async def open(
        cls, client: JsonClient, model: str, batch_size: int, params: Mapping[str, Any] = NO_PARAMS
    ) -> "VllmEngine":
        """The engine, with a batch size of 1 where the server has no batched route."""
        return cls(client, model, params=params, batch_size=batch_size if await _has_batched_route(client) else 1)

    async def _complete(
        self, conversations: Sequence[ChatMessages], payload: dict[str, Any], read: Callable[[Choice], T]
    ) -> list[EngineAnswer[T] | UpstreamError]:
        """One request for all. Those that are refused or failed within it are asked one by one."""
        if self.batch_size == 1 or len(conversations) == 1 or self.denial is not None:
            return await super()._complete(conversations, payload, read)
        batch = payload | {"messages": conversations}
        try:
            completion: Completion = await self._client.post(
                BATCH, batch, weight=len(conversations), read=read_completion
            )
            choices = completion.in_order(len(conversations))
        except UpstreamRefused:
            return await super()._complete(conversations, payload, read)
        except UpstreamDenied as error:
            if error.status in NO_SUCH_ROUTE:  # the server may have lost this route
                return await super()._complete(conversations, payload, read)
            self.denial = error
            return [error] * len(conversations)
        except UpstreamError as error:
            return [error] * len(conversations)
        usages = _usages(completion.total_usage, conversations)
        failed = [index for index, choice in enumerate(choices) if choice.error]
        singly = await super()._complete([conversations[index] for index in failed], payload, read)
        again = dict(zip(failed, singly, strict=True))
        return [
            again[index] if index in again else _answer(read, choice, usage)
            for index, (choice, usage) in enumerate(zip(choices, usages, strict=True))
        ]

    async def _single_tokens(self, candidates: Sequence[str]) -> frozenset[str]:
        """Those that are one token. vLLM always parses special ones, so that a plain token of that shape counts too."""
        text = "\n" + "\n".join(candidates)
        body = {"model": self.model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
        answer = await self._client.find("/tokenize", body)
        tokens = answer.get("token_strs") if isinstance(answer, dict) else None
        return frozenset(token for token in tokens or () if isinstance(token, str)) & frozenset(candidates)

    def _constraint(self, options: Sequence[str], positions: int) -> dict[str, Any]:
        outputs = {"choice": list(options)} if positions == 1 else {"regex": one_option_a_line(options, positions)}
        return {"structured_outputs": outputs, "top_logprobs": len(options), **NEUTRAL_SAMPLING}


async def _has_batched_route(client: JsonClient) -> bool:
    """GET on a POST route is 405, on a missing one 404."""
    return await client.has_post_route(BATCH)


def divide(total: int, weights: Sequence[int]) -> list[int]:
    """Integer shares of `total`, about in proportion to `weights` + 1; their sum is `total`."""
    cumulated = list(accumulate(weight + 1 for weight in weights))
    bounds = [0, *(total * weight // cumulated[-1] for weight in cumulated)]
    return [end - start for start, end in pairwise(bounds)]


def _usages(total: Usage, conversations: Sequence[ChatMessages]) -> list[Usage]:
    """An estimate for each conversation: prompt tokens in proportion to its length, completion tokens equally."""
    lengths = [sum([len(message["content"]) for message in messages]) for messages in conversations]
    return [
        Usage(judge_calls=1, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
        for prompt, cached, completion in zip(
            divide(total.prompt_tokens, lengths),
            divide(total.cached_tokens, lengths),
            divide(total.completion_tokens, [0] * len(lengths)),
            strict=True,
        )
    ]


def _answer(read: Callable[[Choice], T], choice: Choice, usage: Usage) -> EngineAnswer[T] | UpstreamError:
    try:
        return EngineAnswer(read(choice), usage)
    except UpstreamMalformed as error:
        return error
