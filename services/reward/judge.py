"""The judge: levels for (item, criterion) pairs, each engine call made once however many ask for it."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

from regrade.contracts import LEVELS, TOP_LEVEL, ErrorCode, ItemError, Purpose, Usage
from services.kit.http import UpstreamError, UpstreamMalformed, UpstreamRefused
from services.kit.judgements import JudgementStore
from services.kit.tasks import end_task
from services.reward.engine.base import ChatMessages, ChoiceAnswer, Engine
from services.reward.identity import judgement_identity
from services.reward.metrics import RewardMetrics

log = logging.getLogger(__name__)

_CHOICES = tuple(str(level) for level in LEVELS)
_WIDEST_STD = TOP_LEVEL / 2


class Judgement(NamedTuple):
    """An expected score in [0, 1], and how concentrated the levels' distribution is (1: one level, 0: the ends)."""

    score: float
    confidence: float


class JudgeJob(NamedTuple):
    """One criterion of one item to be judged."""

    messages: ChatMessages


class JudgeAnswer(NamedTuple):
    """A judgement or an error, and what the engine was billed for it (nothing, where it was known or shared)."""

    judgement: Judgement | ItemError
    usage: Usage


def judgement_of(probabilities: Sequence[float]) -> Judgement:
    """Expected level / 5 and confidence of a distribution over levels 0..5.

    Source: expected score from token probabilities beats the mode, arXiv 2503.03064.
    """
    mean = math.fsum(level * p for level, p in zip(LEVELS, probabilities, strict=True))
    variance = math.fsum(p * (level - mean) ** 2 for level, p in zip(LEVELS, probabilities, strict=True))
    score = min(1.0, max(0.0, mean / TOP_LEVEL))
    return Judgement(score, min(1.0, max(0.0, 1.0 - math.sqrt(variance) / _WIDEST_STD)))


class Judge:
    """Asks an engine, at most `in_flight` calls at once for training and `shadow_in_flight` for candidates."""

    def __init__(self, store: JudgementStore, metrics: RewardMetrics, *, in_flight: int, shadow_in_flight: int) -> None:
        self._store = store
        self._metrics = metrics
        self._train_slots = asyncio.Semaphore(in_flight)
        self._shadow_slots = asyncio.Semaphore(shadow_in_flight)
        self._flying: dict[str, asyncio.Task[ChoiceAnswer]] = {}

    async def answer(
        self, engine: Engine, task: str, jobs: Sequence[JudgeJob], *, purpose: Purpose, fresh: bool
    ) -> list[JudgeAnswer]:
        """One answer a job, in order. A failed job yields an `ItemError`; the others go on."""
        identities = [judgement_identity(job.messages, engine.model) for job in jobs]
        known = {} if fresh else await self._store.get(task, list(dict.fromkeys(identities)))
        slots = self._shadow_slots if purpose is Purpose.SHADOW else self._train_slots
        learnt: dict[str, tuple[float, ...]] = {}

        async def one(identity: str, job: JudgeJob) -> JudgeAnswer:
            if identity in known:
                return JudgeAnswer(judgement_of(known[identity]), Usage())
            try:
                answer, billed = await self._call(engine, identity, job, slots)
            except UpstreamError as error:
                return JudgeAnswer(_item_error(error), Usage())
            learnt[identity] = answer.probabilities
            return JudgeAnswer(judgement_of(answer.probabilities), answer.usage if billed else Usage())

        answers = await asyncio.gather(*(one(i, job) for i, job in zip(identities, jobs, strict=True)))
        await self._store.put(task, learnt)
        return answers

    async def _call(
        self, engine: Engine, identity: str, job: JudgeJob, slots: asyncio.Semaphore
    ) -> tuple[ChoiceAnswer, bool]:
        """The engine's answer, and whether this caller is the one billed for it; concurrent equals join one call."""
        flying = self._flying.get(identity)
        if flying is not None:
            return await asyncio.shield(flying), False

        async def fly() -> ChoiceAnswer:
            async with slots:
                with self._metrics.judge_call():
                    return await engine.choose(job.messages, _CHOICES)

        task = asyncio.create_task(fly())
        self._flying[identity] = task
        task.add_done_callback(lambda done: self._landed(identity, done))
        return await asyncio.shield(task), True

    def _landed(self, identity: str, task: asyncio.Task[ChoiceAnswer]) -> None:
        del self._flying[identity]
        if not task.cancelled():
            task.exception()  # taken note of here, since all who waited for it may be gone

    async def aclose(self) -> None:
        """Drop the calls under way."""
        for task in list(self._flying.values()):
            await end_task(task)


def _item_error(error: UpstreamError) -> ItemError:
    if isinstance(error, UpstreamRefused):
        code = ErrorCode.JUDGE_REFUSED
    elif isinstance(error, UpstreamMalformed):
        code = ErrorCode.JUDGE_MALFORMED
    else:
        code = ErrorCode.JUDGE_UNAVAILABLE
    log.warning("judge call failed", extra={"code": code, "detail": str(error)})
    return ItemError(code=code, message=f"the judge engine gave no usable answer: {error}", retryable=error.retryable)
