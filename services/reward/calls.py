"""Engine calls, each made once however many ask for it: known ones are looked up, concurrent equals join."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from regrade.contracts import ErrorCode, ItemError, Purpose, Usage
from services.kit.http import UpstreamError, UpstreamMalformed, UpstreamRefused, UpstreamUnavailable
from services.kit.judgements import Judged, JudgementStore
from services.kit.tasks import end_task
from services.reward.admission import Admission
from services.reward.engine.base import ChatMessages, ChoiceAnswer, Engine, Sampling, TextAnswer
from services.reward.engine.order import siblings_apart
from services.reward.identity import judgement_identity
from services.reward.metrics import RewardMetrics

log = logging.getLogger(__name__)


class Asker(NamedTuple):
    """On whose behalf calls are made: the engine, the task, what for, whether stored answers will do, until when.

    `fence_key` is the key of the fences in its conversations. `deadline` is a time of the event loop's
    clock, or None; what is not answered by then is an error.
    """

    engine: Engine
    task: str
    purpose: Purpose
    fence_key: bytes
    fresh: bool = False
    deadline: float | None = None


class Answer(NamedTuple):
    """What the engine answered, or why it did not; and what that was billed (nothing, if known or shared)."""

    judged: Judged | ItemError
    usage: Usage


class _Call(NamedTuple):
    identity: str
    messages: ChatMessages


_Landed = ChoiceAnswer | TextAnswer | UpstreamError
_Ask = Callable[[Sequence[ChatMessages]], Awaitable[Sequence[_Landed]]]


class EngineCalls:
    """Asks engines on behalf of everybody in this process."""

    def __init__(self, store: JudgementStore, admission: Admission, metrics: RewardMetrics) -> None:
        self._store = store
        self._admission = admission
        self._metrics = metrics
        self._flying: dict[str, asyncio.Future[_Landed]] = {}
        self._flights: set[asyncio.Task[None]] = set()

    async def choose(
        self, asker: Asker, conversations: Sequence[ChatMessages], choices: Sequence[str], *, positions: int
    ) -> list[Answer]:
        """A distribution over `choices` for each position of each conversation, in order."""

        async def ask(batch: Sequence[ChatMessages]) -> Sequence[ChoiceAnswer | UpstreamError]:
            return await asker.engine.choose(batch, choices, positions=positions)

        return await self._answers(asker, conversations, f"choose {positions} of {' '.join(choices)}", ask)

    async def write(self, asker: Asker, conversations: Sequence[ChatMessages], sampling: Sampling) -> list[Answer]:
        """A written turn for each conversation, in order."""

        async def ask(batch: Sequence[ChatMessages]) -> Sequence[TextAnswer | UpstreamError]:
            return await asker.engine.write(batch, sampling)

        return await self._answers(asker, conversations, f"write {sampling}", ask)

    async def aclose(self) -> None:
        """Drop the calls under way."""
        for task in list(self._flights):
            await end_task(task)

    async def _answers(
        self, asker: Asker, conversations: Sequence[ChatMessages], asked: str, ask: _Ask
    ) -> list[Answer]:
        identities = [judgement_identity(messages, asker.engine.model, asked) for messages in conversations]
        distinct = dict(zip(identities, conversations, strict=True))
        known = {} if asker.fresh else await self._store.get(asker.task, list(distinct))
        own = [_Call(i, m) for i, m in distinct.items() if i not in known and i not in self._flying]
        flying = {i: self._flying[i] for i in distinct if i not in known and i in self._flying}
        flying |= self._take_off(asker, own, ask)
        landed = {identity: await self._landed(future, asker.deadline) for identity, future in flying.items()}
        learnt = {call.identity: _judged(landed[call.identity]) for call in own}
        stood = await self._store.put(asker.task, {i: j for i, j in learnt.items() if not isinstance(j, ItemError)})
        found = known | {identity: _judged(answer) for identity, answer in landed.items()} | stood
        bills = {call.identity: _usage(landed[call.identity]) for call in own}
        return [Answer(found[identity], bills.pop(identity, Usage())) for identity in identities]

    def _take_off(self, asker: Asker, calls: Sequence[_Call], ask: _Ask) -> dict[str, asyncio.Future[_Landed]]:
        """Start the calls that nobody has made, as many to a request as the engine takes."""
        loop = asyncio.get_running_loop()
        futures = {call.identity: loop.create_future() for call in calls}
        self._flying |= futures
        if asker.engine.slots > 1:
            order = siblings_apart([call.messages for call in calls], asker.engine.slots)
            calls = [calls[position] for position in order]
        for start in range(0, len(calls), asker.engine.batch):
            task = loop.create_task(self._fly(calls[start : start + asker.engine.batch], asker.purpose, ask))
            self._flights.add(task)
            task.add_done_callback(self._flights.discard)
        return futures

    async def _fly(self, calls: Sequence[_Call], purpose: Purpose, ask: _Ask) -> None:
        """One engine request. Whatever happens to it, everybody who waits for it is told."""
        try:
            async with self._admission.room(len(calls), purpose):
                with self._metrics.judge_call(len(calls)) as ended:
                    answers = await ask([call.messages for call in calls])
                    ended(answers)
            for call, answer in zip(calls, answers, strict=True):
                self._flying[call.identity].set_result(answer)
        finally:
            for call in calls:
                future = self._flying.pop(call.identity)
                if not future.done():
                    future.set_result(UpstreamUnavailable("the call was dropped"))

    async def _landed(self, future: asyncio.Future[_Landed], deadline: float | None) -> _Landed:
        """The answer, or an error when the deadline comes first; the call goes on for whoever asks again."""
        if deadline is not None and not future.done():
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait({future}, timeout=max(0.0, left))
            if not future.done():
                return UpstreamUnavailable("the caller's deadline came before the engine's answer")
        return await asyncio.shield(future)


def _judged(landed: _Landed) -> Judged | ItemError:
    if isinstance(landed, UpstreamError):
        return _item_error(landed)
    return landed.distributions if isinstance(landed, ChoiceAnswer) else landed.text


def _usage(landed: _Landed) -> Usage:
    return Usage() if isinstance(landed, UpstreamError) else landed.usage


def _item_error(error: UpstreamError) -> ItemError:
    if isinstance(error, UpstreamRefused):
        code = ErrorCode.JUDGE_REFUSED
    elif isinstance(error, UpstreamMalformed):
        code = ErrorCode.JUDGE_MALFORMED
    else:
        code = ErrorCode.JUDGE_UNAVAILABLE
    log.warning("judge call failed", extra={"code": code, "detail": str(error)})
    return ItemError(code=code, message=f"the judge engine gave no usable answer: {error}", retryable=error.retryable)
