"""Engine calls, each made once: stored answers are looked up, and equal concurrent calls share one request."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from regrade.contracts import ErrorCode, Purpose
from services.kit.asyncio_utils import cancel_and_wait
from services.kit.http.client import call_deadline
from services.kit.http.errors import UpstreamError, UpstreamMalformed, UpstreamRefused, UpstreamUnavailable
from services.kit.results import ItemError, Usage
from services.reward.items.identity import judgement_identities
from services.reward.judge.admission import Admission
from services.reward.judge.engine.base import ChatMessages, Distributions, Engine, EngineAnswer, Sampling
from services.reward.judge.engine.scheduling import interleave_siblings
from services.reward.judge.prompt import JudgeConversation
from services.reward.metrics import RewardMetrics
from services.reward.persistence.judgement_cache import JudgementStore

log = logging.getLogger(__name__)

_NO_USAGE = Usage()


class JudgeContext(NamedTuple):
    """What all engine calls of one request have in common.

    `fence_key` is the key of the fences in its conversations. With `fresh`, stored answers are not used; with
    `explain`, scores carry their rationale. `deadline` is a time of the event loop's clock: a call that is unanswered
    by then is an error.
    """

    engine: Engine
    task: str
    purpose: Purpose
    fence_key: bytes
    fresh: bool = False
    explain: bool = False
    deadline: float | None = None


_Result = EngineAnswer[Any] | ItemError
_Request = Callable[[Sequence[ChatMessages]], Awaitable[Sequence[EngineAnswer[Any] | UpstreamError]]]


class PendingSlot(NamedTuple):
    """The future of a request's results, and the position of one call's result among them."""

    results: asyncio.Future[Sequence[_Result]]
    position: int


class EngineClient:
    """The engine calls of this process."""

    def __init__(self, store: JudgementStore, admission: Admission, metrics: RewardMetrics) -> None:
        self._store = store
        self._admission = admission
        self._metrics = metrics
        self._in_flight: dict[str, PendingSlot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused_until = 0.0

    async def choose(
        self,
        context: JudgeContext,
        conversations: Sequence[JudgeConversation],
        options: Sequence[str],
        *,
        positions: int,
    ) -> list[EngineAnswer[Distributions] | ItemError]:
        """A distribution over `options` for each position of each conversation, in order."""
        request = partial(context.engine.choose, options=options, positions=positions)
        return await self._answers(context, conversations, f"choose {positions} of {' '.join(options)}", request)

    async def write(
        self, context: JudgeContext, conversations: Sequence[JudgeConversation], sampling: Sampling
    ) -> list[EngineAnswer[str] | ItemError]:
        """A written turn for each conversation, in order. Equal calls get the same text, on every replica."""
        request = partial(context.engine.write, sampling=sampling)
        return await self._answers(context, conversations, f"write {sampling}", request)

    @property
    def pause_s(self) -> float:
        """Seconds for which the engine has asked for no more requests; 0 for none."""
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())

    async def aclose(self) -> None:
        """Cancel the calls in flight."""
        for task in list(self._tasks):
            await cancel_and_wait(task)

    async def _answers(
        self, context: JudgeContext, conversations: Sequence[JudgeConversation], parameters: str, request: _Request
    ) -> list[Any]:
        """`parameters` are part of an answer's identity: another wording of them misses every stored answer."""
        keys = [conversation.prefix_key for conversation in conversations]
        identities = judgement_identities(keys, context.engine.identity, parameters)
        distinct = dict(zip(identities, conversations, strict=True))
        stored = {} if context.fresh else await self._store.get(context.task, list(distinct))
        missing = [identity for identity in distinct if identity not in stored]
        new = {identity: distinct[identity] for identity in missing if identity not in self._in_flight}
        pending = {identity: self._in_flight[identity] for identity in missing if identity not in new}
        pending |= self._dispatch(context, new, request)
        results: dict[str, _Result] = {identity: EngineAnswer(value, _NO_USAGE) for identity, value in stored.items()}
        results |= await self._wait(pending, context.deadline)
        unbilled = set(new)
        answers = []
        for identity in identities:
            result = results[identity]
            if identity in unbilled:
                unbilled.remove(identity)
            elif isinstance(result, EngineAnswer):  # stored or shared: paid for elsewhere
                result = EngineAnswer(result.value, _NO_USAGE)
            answers.append(result)
        return answers

    def _dispatch(
        self, context: JudgeContext, calls: Mapping[str, JudgeConversation], request: _Request
    ) -> dict[str, PendingSlot]:
        """Start new calls, as many to a request as the engine takes."""
        loop = asyncio.get_running_loop()
        engine = context.engine
        identities = list(calls)
        if engine.cache_slots > 1:
            order = interleave_siblings([call.prefix_key for call in calls.values()], engine.cache_slots)
            identities = [identities[index] for index in order]
        size = engine.batch_size
        if context.purpose is Purpose.SHADOW:
            size = min(size, self._admission.shadow_capacity)
        pending: dict[str, PendingSlot] = {}
        for start in range(0, len(identities), size):
            batch = identities[start : start + size]
            results: asyncio.Future[Sequence[_Result]] = loop.create_future()
            pending |= {identity: PendingSlot(results, position) for position, identity in enumerate(batch)}
            messages = {identity: calls[identity].messages for identity in batch}
            with call_deadline(context.deadline):  # of the caller who starts the request; others may share it
                task = loop.create_task(self._run_batch(results, context, messages, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._in_flight |= pending
        return pending

    async def _run_batch(
        self,
        pending: asyncio.Future[Sequence[_Result]],
        context: JudgeContext,
        calls: Mapping[str, ChatMessages],
        request: _Request,
    ) -> None:
        """Make one engine request, store its answers, and set `pending`, also if the request fails or is cancelled."""
        results: Sequence[_Result] = [_item_error(UpstreamUnavailable("the call was dropped"))] * len(calls)
        try:
            async with self._admission.hold(len(calls), context.purpose):
                with self._metrics.judge_call(len(calls)) as ended:
                    answers = await request(list(calls.values()))
                    ended(answers)
            _log_failures(answers)
            self._note_pauses(answers)
            results = [_item_error(answer) if isinstance(answer, UpstreamError) else answer for answer in answers]
            cacheable = _cacheable(calls, results)
            if any(isinstance(value, str) for value in cacheable.values()):
                earlier = await self._store.put(context.task, cacheable)
                results = _first_stored(calls, results, earlier)
            else:  # equal calls have equal distributions, so callers need not wait until these are stored
                pending.set_result(results)
                await self._store.put(context.task, cacheable)
        finally:
            for identity in calls:
                del self._in_flight[identity]
            if not pending.done():
                pending.set_result(results)

    def _note_pauses(self, answers: Sequence[object]) -> None:
        pauses = [a.retry_after_s for a in answers if isinstance(a, UpstreamUnavailable) and a.retry_after_s]
        if pauses:
            self._paused_until = asyncio.get_running_loop().time() + max(pauses)

    async def _wait(self, pending: Mapping[str, PendingSlot], deadline: float | None) -> dict[str, _Result]:
        """The results. At the deadline, an error; the request continues, so that a retry can use its answer."""
        futures = {slot.results for slot in pending.values()}
        if not futures:
            return {}
        timeout = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
        await asyncio.wait(futures, timeout=timeout)
        late = _item_error(UpstreamUnavailable("no answer by the caller's deadline"))
        return {
            identity: slot.results.result()[slot.position] if slot.results.done() else late
            for identity, slot in pending.items()
        }


def _cacheable(identities: Iterable[str], results: Sequence[_Result]) -> dict[str, Distributions | str]:
    paired = zip(identities, results, strict=True)
    return {identity: result.value for identity, result in paired if isinstance(result, EngineAnswer)}


def _first_stored(
    identities: Iterable[str], results: Sequence[_Result], earlier: Mapping[str, Distributions | str]
) -> list[_Result]:
    """The results, with the text that another replica stored earlier in place of a sampled one."""
    return [
        EngineAnswer(earlier.get(identity, result.value), result.usage) if isinstance(result, EngineAnswer) else result
        for identity, result in zip(identities, results, strict=True)
    ]


def _item_error(error: UpstreamError) -> ItemError:
    if isinstance(error, UpstreamRefused):
        code = ErrorCode.JUDGE_REFUSED
    elif isinstance(error, UpstreamMalformed):
        code = ErrorCode.JUDGE_MALFORMED
    else:
        code = ErrorCode.JUDGE_UNAVAILABLE
    return ItemError(code=code, message=f"the judge engine gave no usable answer: {error}", retryable=error.retryable)


def _log_failures(answers: Sequence[object]) -> None:
    """One line for all conversations of a request that failed alike, so that an outage does not flood the log."""
    failed = Counter((type(answer).__name__, str(answer)) for answer in answers if isinstance(answer, UpstreamError))
    for (kind, detail), count in failed.items():
        log.warning("judge call failed", extra={"kind": kind, "detail": detail, "conversations": count})
