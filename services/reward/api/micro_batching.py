"""Scores the samples of callers that send one at a time: gathers them into batches, and holds them while it must.

A trainer that gives up after a few quick failures is better kept waiting: while judge or Redis are away or full, a
sample is tried again here, until its caller is about to give up.
"""

import asyncio
import hashlib
from collections.abc import Sequence

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from regrade.backoff import backoff_s
from regrade.contracts import MAIN_LINEAGE, ErrorCode, Mode, Name, Purpose, ScoreItem, ScoreRequest
from regrade.contracts.base import Contract
from regrade.micro_batching import MicroBatcher
from services.kit.errors import Overloaded, Unavailable
from services.kit.results import ItemResult
from services.reward.scoring.pipeline import ScoringPipeline

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_RETRY_AFTER_S = 5
_MAY_PASS = (Unavailable, Overloaded, RedisConnectionError, RedisTimeoutError)


class Target(Contract):
    """What the samples of one batch share."""

    task: Name
    run: Name | None = None
    mode: Mode | None = None
    lineage: Name = MAIN_LINEAGE
    purpose: Purpose = Purpose.TRAIN


class RetryingBatcher:
    """Samples without a step, pinned by group. Equal samples of a prompt are one item: their callers name none."""

    def __init__(self, service: ScoringPipeline, *, size: int, wait_s: float) -> None:
        self._service = service
        self._batcher: MicroBatcher[Target, ScoreItem, ItemResult] = MicroBatcher(self._ask, size=size, wait_s=wait_s)

    async def score(self, target: Target, items: Sequence[ScoreItem], *, hold_s: float) -> list[ItemResult]:
        """One outcome an item, none of them for want of the judge. Waits for judge and Redis for up to `hold_s`.

        Raises `Unavailable` or `Overloaded` after that, and at once what waiting does not mend.
        """
        deadline = asyncio.get_running_loop().time() + hold_s
        found: dict[int, ItemResult] = {}
        failures = 0
        while len(found) < len(items):
            missing = [number for number in range(len(items)) if number not in found]
            problem = await self._once(target, items, missing, deadline, found)
            if problem is None:
                continue
            failures += 1
            pause = backoff_s(failures, first_s=_FIRST_PAUSE_S, max_s=_LONGEST_PAUSE_S)
            if asyncio.get_running_loop().time() + pause > deadline:
                raise problem
            await asyncio.sleep(pause)
        return [found[number] for number in range(len(items))]

    async def aclose(self) -> None:
        """Drop the batches under way."""
        await self._batcher.aclose()

    async def _once(
        self,
        target: Target,
        items: Sequence[ScoreItem],
        wanted: Sequence[int],
        deadline: float,
        found: dict[int, ItemResult],
    ) -> Exception | None:
        """Ask for what is missing; answers why some of it is missing still, where asking again may help."""
        seats = {number: self._batcher.submit(target, _name(items[number]), items[number]) for number in wanted}
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.wait(set(seats.values()), timeout=max(0.0, left))
        problem: Exception | None = None
        for number, seat in seats.items():
            try:
                result = seat.result() if seat.done() and not seat.cancelled() else None
            except _MAY_PASS as error:
                problem = error
                continue
            if result is None:
                problem = _away("no answer yet; the sample is being scored, ask again for it")
            elif result.error is not None and result.error.code is ErrorCode.JUDGE_UNAVAILABLE:
                problem = _away(result.error.message)
            else:
                found[number] = result
        return problem

    async def _ask(self, target: Target, items: Sequence[ScoreItem]) -> Sequence[ItemResult]:
        request = ScoreRequest(
            task=target.task,
            run=target.run,
            mode=target.mode,
            lineage=target.lineage,
            purpose=target.purpose,
            items=tuple(items),
        )
        return (await self._service.score(request)).results


def _name(item: ScoreItem) -> bytes:
    return hashlib.sha256(item.model_dump_json().encode()).digest()


def _away(detail: str) -> Unavailable:
    return Unavailable(detail, code=ErrorCode.JUDGE_UNAVAILABLE, retry_after=_RETRY_AFTER_S)
