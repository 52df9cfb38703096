"""Engine calls, each made once however many ask for it: known ones are looked up, concurrent equals join."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from regrade.contracts import ErrorCode, Purpose
from services.kit.asyncio_utils import cancel_and_wait
from services.kit.http.client import UpstreamError, UpstreamMalformed, UpstreamRefused, UpstreamUnavailable
from services.kit.results import ItemError, Usage
from services.reward.items.identity import judgement_identities
from services.reward.judge.admission import Admission
from services.reward.judge.engine.base import ChatMessages, ChoiceAnswer, Engine, Sampling, TextAnswer
from services.reward.judge.engine.scheduling import siblings_apart
from services.reward.judge.prompt import JudgeConversation
from services.reward.metrics import RewardMetrics
from services.reward.persistence.judgement_cache import Judged, JudgementStore

log = logging.getLogger(__name__)

_NOTHING = Usage()


class JudgeContext(NamedTuple):
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


_Landed = ChoiceAnswer | TextAnswer | UpstreamError
_Ask = Callable[[Sequence[ChatMessages]], Awaitable[Sequence[_Landed]]]


class _Seat(NamedTuple):
    """Where the answer to a call under way will be: which flight, and which of its answers."""

    flight: asyncio.Future[Sequence[_Landed]]
    number: int


class EngineClient:
    """Asks engines on behalf of everybody in this process."""

    def __init__(self, store: JudgementStore, admission: Admission, metrics: RewardMetrics) -> None:
        self._store = store
        self._admission = admission
        self._metrics = metrics
        self._flying: dict[str, _Seat] = {}
        self._flights: set[asyncio.Task[None]] = set()

    async def choose(
        self, context: JudgeContext, chats: Sequence[JudgeConversation], choices: Sequence[str], *, positions: int
    ) -> list[Answer]:
        """A distribution over `choices` for each position of each conversation, in order."""

        async def ask(batch: Sequence[ChatMessages]) -> Sequence[ChoiceAnswer | UpstreamError]:
            return await context.engine.choose(batch, choices, positions=positions)

        return await self._answers(context, chats, f"choose {positions} of {' '.join(choices)}", ask)

    async def write(
        self, context: JudgeContext, chats: Sequence[JudgeConversation], sampling: Sampling
    ) -> list[Answer]:
        """A written turn for each conversation, in order: the same one for all who ask, on every replica."""

        async def ask(batch: Sequence[ChatMessages]) -> Sequence[TextAnswer | UpstreamError]:
            return await context.engine.write(batch, sampling)

        return await self._answers(context, chats, f"write {sampling}", ask)

    async def aclose(self) -> None:
        """Drop the calls under way."""
        for task in list(self._flights):
            await cancel_and_wait(task)

    async def _answers(
        self, context: JudgeContext, chats: Sequence[JudgeConversation], asked: str, ask: _Ask
    ) -> list[Answer]:
        identities = judgement_identities([chat.path for chat in chats], context.engine.model, asked)
        distinct = dict(zip(identities, chats, strict=True))
        known = {} if context.fresh else await self._store.get(context.task, list(distinct))
        own = {i: chat for i, chat in distinct.items() if i not in known and i not in self._flying}
        seats = {i: self._flying[i] for i in distinct if i not in known and i in self._flying}
        seats |= self._take_off(context, own, ask)
        landed = await self._landed(seats, context.deadline)
        found: dict[str, Judged | ItemError] = {**known, **{i: _judged(answer) for i, answer in landed.items()}}
        bills = {i: _usage(landed[i]) for i in own}
        return [Answer(found[i], bills.pop(i, _NOTHING)) for i in identities]

    def _take_off(self, context: JudgeContext, calls: Mapping[str, JudgeConversation], ask: _Ask) -> dict[str, _Seat]:
        """Start the calls that nobody has made, as many to a request as the engine takes."""
        loop = asyncio.get_running_loop()
        identities = list(calls)
        if context.engine.slots > 1:
            identities = [identities[n] for n in siblings_apart([c.path for c in calls.values()], context.engine.slots)]
        seats: dict[str, _Seat] = {}
        size = context.engine.batch
        if context.purpose is Purpose.SHADOW:
            size = min(size, self._admission.shadow_capacity)
        for start in range(0, len(identities), size):
            part = identities[start : start + size]
            flight: asyncio.Future[Sequence[_Landed]] = loop.create_future()
            seats |= {identity: _Seat(flight, number) for number, identity in enumerate(part)}
            task = loop.create_task(self._fly(flight, context, {i: calls[i].messages for i in part}, ask))
            self._flights.add(task)
            task.add_done_callback(self._flights.discard)
        self._flying |= seats
        return seats

    async def _fly(
        self,
        flight: asyncio.Future[Sequence[_Landed]],
        context: JudgeContext,
        calls: Mapping[str, ChatMessages],
        ask: _Ask,
    ) -> None:
        """One engine request, and the storing of its answers. Whatever happens, everybody who waits is told."""
        answers: Sequence[_Landed] = [UpstreamUnavailable("the call was dropped")] * len(calls)
        try:
            async with self._admission.room(len(calls), context.purpose):
                with self._metrics.judge_call(len(calls)) as ended:
                    answers = await ask(list(calls.values()))
                    ended(answers)
            _log_failures(answers)
            if any(isinstance(answer, TextAnswer) for answer in answers):
                answers = await self._agreed(context.task, calls, answers)
            else:  # of distributions any will do: nobody waits until they are stored
                flight.set_result(answers)
                await self._store.put(context.task, _learnt(calls, answers))
        finally:
            for identity in calls:
                del self._flying[identity]
            if not flight.done():
                flight.set_result(answers)

    async def _agreed(self, task: str, calls: Iterable[str], answers: Sequence[_Landed]) -> list[_Landed]:
        """The answers, and in place of a text the one that somebody had stored before."""
        stood = await self._store.put(task, _learnt(calls, answers))
        return [
            TextAnswer(text, answer.usage)
            if isinstance(answer, TextAnswer) and isinstance(text := stood.get(identity), str)
            else answer
            for identity, answer in zip(calls, answers, strict=True)
        ]

    async def _landed(self, seats: Mapping[str, _Seat], deadline: float | None) -> dict[str, _Landed]:
        """The answers; where the deadline comes first, an error, and the call goes on for whoever asks again."""
        flights = {seat.flight for seat in seats.values()}
        if not flights:
            return {}
        left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
        await asyncio.wait(flights, timeout=left)
        late = UpstreamUnavailable("the caller's deadline came before the engine's answer")
        return {
            identity: seat.flight.result()[seat.number] if seat.flight.done() else late
            for identity, seat in seats.items()
        }


def _judged(landed: _Landed) -> Judged | ItemError:
    if isinstance(landed, UpstreamError):
        return _item_error(landed)
    return _told(landed)


def _learnt(calls: Iterable[str], answers: Sequence[_Landed]) -> dict[str, Judged]:
    answered = zip(calls, answers, strict=True)
    return {identity: _told(answer) for identity, answer in answered if not isinstance(answer, UpstreamError)}


def _told(answer: ChoiceAnswer | TextAnswer) -> Judged:
    return answer.distributions if isinstance(answer, ChoiceAnswer) else answer.text


def _usage(landed: _Landed) -> Usage:
    return _NOTHING if isinstance(landed, UpstreamError) else landed.usage


def _item_error(error: UpstreamError) -> ItemError:
    if isinstance(error, UpstreamRefused):
        code = ErrorCode.JUDGE_REFUSED
    elif isinstance(error, UpstreamMalformed):
        code = ErrorCode.JUDGE_MALFORMED
    else:
        code = ErrorCode.JUDGE_UNAVAILABLE
    return ItemError(code=code, message=f"the judge engine gave no usable answer: {error}", retryable=error.retryable)


def _log_failures(answers: Sequence[_Landed]) -> None:
    """One line for all conversations of a request that failed alike: an outage must not flood the log."""
    failed = Counter((type(answer).__name__, str(answer)) for answer in answers if isinstance(answer, UpstreamError))
    for (kind, detail), count in failed.items():
        log.warning("judge call failed", extra={"kind": kind, "detail": detail, "conversations": count})
