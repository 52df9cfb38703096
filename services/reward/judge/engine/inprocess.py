"""vLLM inside the reward process: the judge's model on this container's GPU, without a separate server.

Imported only if chosen (extra `vllm`). Prompts, constraint and probabilities are those of the HTTP dialect. vLLM
computes in a process of its own, which ends with the service.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.outputs import RequestOutput
from vllm.renderers import ChatParams
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from services.kit.http.errors import (
    UpstreamBusy,
    UpstreamDenied,
    UpstreamMalformed,
    UpstreamRefused,
    UpstreamUnavailable,
)
from services.kit.results import Usage
from services.reward.judge.engine.base import (
    ChatMessages,
    ChoiceResult,
    Distributions,
    EngineAnswer,
    Sampling,
    TextResult,
)
from services.reward.judge.engine.openai import distributions_of, for_each, one_option_a_line
from services.reward.judge.engine.responses import Position, TopToken

_TEMPLATE = ChatParams(chat_template_kwargs={"add_generation_prompt": True})

log = logging.getLogger(__name__)


class InprocessEngine:
    """An `AsyncLLM` as an engine; each call may take `timeout_s`."""

    cache_slots = 0
    denial: UpstreamDenied | None = None

    def __init__(self, llm: AsyncLLM, model: str, *, batch_size: int, timeout_s: float) -> None:
        self._llm = llm
        self.model = self.identity = model
        self.batch_size = batch_size
        self._timeout_s = timeout_s

    async def choose(
        self, conversations: Sequence[ChatMessages], options: Sequence[str], *, positions: int = 1
    ) -> list[ChoiceResult]:
        """See `Engine`; vLLM applies the constraint before it computes the probabilities."""
        outputs = {"choice": list(options)} if positions == 1 else {"regex": one_option_a_line(options, positions)}
        sampling = SamplingParams(
            max_tokens=2 * positions - 1,
            temperature=0.0,
            logprobs=len(options),
            structured_outputs=StructuredOutputsParams(**outputs),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

        async def complete(messages: ChatMessages) -> EngineAnswer[Distributions]:
            output = await self._generate(messages, sampling)
            return EngineAnswer(distributions_of(_positions(output), options, positions), _usage(output))

        return await for_each(conversations, complete)

    async def write(self, conversations: Sequence[ChatMessages], sampling: Sampling) -> list[TextResult]:
        """See `Engine`. `UpstreamMalformed` where nothing was written."""
        parameters = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

        async def complete(messages: ChatMessages) -> EngineAnswer[str]:
            output = await self._generate(messages, parameters)
            text = output.outputs[0].text.strip()
            if not text:
                raise UpstreamMalformed("the engine wrote nothing")
            return EngineAnswer(text, _usage(output))

        return await for_each(conversations, complete)

    async def special_tokens(self, candidates: Sequence[str]) -> frozenset[str]:
        """See `Engine`. Of the tokens that were added to the vocabulary, all count as special."""
        tokenizer: Any = self._llm.renderer.tokenizer
        return frozenset(candidates) & frozenset(tokenizer.get_added_vocab())

    async def ready(self) -> bool:
        """Whether vLLM's process is alive."""
        return not self._llm.errored

    async def _generate(self, messages: ChatMessages, sampling: SamplingParams) -> RequestOutput:
        """The finished output. Raises `UpstreamRefused` for a faulty conversation, else `UpstreamUnavailable`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                _, prompts = await self._llm.renderer.render_chat_async([list(messages)], _TEMPLATE)
                async for output in self._llm.generate(prompts[0], sampling, uuid4().hex):
                    if output.finished:
                        return output
        except (VLLMClientError, ValueError) as error:
            raise UpstreamRefused(f"vLLM refused the conversation: {error}") from error
        except GracefulHTTPError as error:
            raise UpstreamBusy(f"vLLM accepts no more requests: {error}") from error
        except TimeoutError as error:
            raise UpstreamUnavailable(f"vLLM did not answer within {self._timeout_s} s") from error
        except Exception as error:  # a dead or failing engine core, whatever vLLM raises: the item is not the cause
            raise UpstreamUnavailable(f"vLLM failed: {type(error).__name__}") from error
        raise UpstreamUnavailable("vLLM ended a request without an answer")


class InprocessModel:
    """Loads the model once, at the first call of `open`, and ends it."""

    def __init__(
        self,
        model: str,
        *,
        batch_size: int,
        timeout_s: float,
        max_model_len: int,
        gpu_memory: float,
        engine_args: Mapping[str, Any],
    ) -> None:
        """`max_model_len` 0 is the model's own; `engine_args` are further `AsyncEngineArgs`."""
        self._model = model
        self._batch_size = batch_size
        self._timeout_s = timeout_s
        self._engine_args = {"gpu_memory_utilization": gpu_memory, "disable_log_stats": True, **engine_args}
        if max_model_len:
            self._engine_args["max_model_len"] = max_model_len
        self._loading: asyncio.Task[AsyncLLM] | None = None

    async def open(self, *, verify: bool = False) -> InprocessEngine:
        """The engine. Raises `UpstreamUnavailable` if the model cannot be loaded, then at every call.

        Loading continues if a caller, such as a readiness probe, gives up. `verify` makes no difference here.
        """
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        try:
            llm = await asyncio.shield(self._loading)
        except Exception as error:
            raise UpstreamUnavailable(f"the in-process engine did not start: {error}") from error
        return InprocessEngine(llm, self._model, batch_size=self._batch_size, timeout_s=self._timeout_s)

    async def aclose(self) -> None:
        """End vLLM's process, once it has started."""
        if self._loading is None:
            return
        await asyncio.wait({self._loading})
        if self._loading.exception() is None:
            await asyncio.to_thread(self._loading.result().shutdown)

    def _load(self) -> AsyncLLM:
        log.info("loading the judge's model", extra={"model": self._model})
        return AsyncLLM.from_engine_args(AsyncEngineArgs(model=self._model, **self._engine_args))


def _positions(output: RequestOutput) -> list[Position]:
    """Each sampled token with the log-probabilities at its position. Raises `UpstreamMalformed`."""
    completion = output.outputs[0]
    if not completion.logprobs:
        raise UpstreamMalformed("no token probabilities in the engine's answer")
    return [
        Position(
            top[token].decoded_token or "",
            [TopToken(entry.decoded_token or "", entry.logprob) for entry in top.values()],
        )
        for token, top in zip(completion.token_ids, completion.logprobs, strict=True)
    ]


def _usage(output: RequestOutput) -> Usage:
    return Usage(
        judge_calls=1,
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        completion_tokens=len(output.outputs[0].token_ids),
    )
