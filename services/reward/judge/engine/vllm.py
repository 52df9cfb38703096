"""vLLM: structured outputs constrain the answer, and one request takes many conversations where the route is there.

vLLM applies the constraint before it computes log-probabilities, so they are those of the choices alone.
The batched route bills sums and no cached tokens; a single call tells those of a server that was started
with `--enable-prompt-tokens-details`. Behind a router that does not pass `/version` on, the dialect has to be set.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

from services.kit.http.client import JsonEndpoint, UpstreamError, UpstreamMalformed, UpstreamRefused
from services.kit.results import Usage
from services.reward.judge.engine.base import ChatMessages, ChoiceAnswer, Sampling, TextAnswer
from services.reward.judge.engine.openai import (
    CHAT,
    UNSKEWED,
    OpenAIEngine,
    one_answer_a_line,
    read_text,
)
from services.reward.judge.engine.responses import Choice, Completion, read_completion

BATCH = f"{CHAT}/batch"

T = TypeVar("T", ChoiceAnswer, TextAnswer)


class VllmEngine(OpenAIEngine):
    """`batch` conversations at most go into one request; 1 leaves the batched route alone."""

    def __init__(self, endpoint: JsonEndpoint, model: str, *, batch: int = 1) -> None:
        super().__init__(endpoint, model)
        self.batch = batch

    async def choose(
        self, conversations: Sequence[ChatMessages], choices: Sequence[str], *, positions: int = 1
    ) -> list[ChoiceAnswer | UpstreamError]:
        """One request for all, or one each where there is no batched route or it refuses them as a whole."""
        if self.batch > 1 and len(conversations) > 1:
            payload = self._choice_payload(choices, positions)
            answers = await self._batch(
                conversations,
                payload,
                lambda answer, bill: ChoiceAnswer(self.read_levels(answer, choices, positions), bill),
            )
            if answers is not None:
                return answers
        return await super().choose(conversations, choices, positions=positions)

    async def write(
        self, conversations: Sequence[ChatMessages], sampling: Sampling
    ) -> list[TextAnswer | UpstreamError]:
        """As `choose`, for text."""
        if self.batch > 1 and len(conversations) > 1:
            answers = await self._batch(
                conversations,
                self._text_payload(sampling),
                lambda answer, bill: TextAnswer(read_text(answer), bill),
            )
            if answers is not None:
                return answers
        return await super().write(conversations, sampling)

    async def _batch(
        self, conversations: Sequence[ChatMessages], payload: dict[str, Any], read: Callable[[Choice, Usage], T]
    ) -> list[T | UpstreamError] | None:
        """One answer or error each; None when the request was refused: one conversation may be to blame for it."""
        batch = payload | {"messages": conversations}
        try:
            answer: Completion = await self._endpoint.post(
                BATCH, batch, weight=len(conversations), read=read_completion
            )
            told = answer.in_order(len(conversations))
        except UpstreamRefused:
            return None
        except UpstreamError as error:
            return [error] * len(conversations)
        bills = _bills(answer.billed, conversations)
        return [_read(read, choice, bill) for choice, bill in zip(told, bills, strict=True)]

    def _constraint(self, choices: Sequence[str], positions: int) -> dict[str, Any]:
        outputs = {"choice": list(choices)} if positions == 1 else {"regex": one_answer_a_line(choices, positions)}
        return {"structured_outputs": outputs, "top_logprobs": len(choices), **UNSKEWED}


def divided(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` about in proportion to `weights`; they add up to it."""
    passed = list(accumulate(weight + 1 for weight in weights))
    bounds = [0, *(total * up_to // passed[-1] for up_to in passed)]
    return [end - start for start, end in pairwise(bounds)]


def _bills(total: Usage, conversations: Sequence[ChatMessages]) -> list[Usage]:
    """A share for each: a batched answer tells the sums alone. What was written is taken to be of one length."""
    lengths = [sum([len(message["content"]) for message in messages]) for messages in conversations]
    return [
        Usage(judge_calls=1, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
        for prompt, cached, completion in zip(
            divided(total.prompt_tokens, lengths),
            divided(total.cached_tokens, lengths),
            divided(total.completion_tokens, [0] * len(lengths)),
            strict=True,
        )
    ]


def _read(read: Callable[[Choice, Usage], T], choice: Choice, bill: Usage) -> T | UpstreamError:
    try:
        return read(choice, bill)
    except UpstreamMalformed as error:
        return error
