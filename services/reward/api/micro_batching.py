"""Batches and retries samples of trainers that send one at a time.

Such a trainer ends its run after a few quick failures. So while the judge or Redis is unavailable or full, a sample is
retried here until shortly before its caller gives up.
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
from services.reward.scoring.pipeline import ScoringPipeline, judge_unavailable

_BATCH_SIZE = 64
"""As many conversations as one engine request takes by default; more items would only wait for one another."""
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 5.0
_RETRIED = (Unavailable, Overloaded, RedisConnectionError, RedisTimeoutError)


class Target(Contract):
    """What the samples of one batch share."""

    task: Name
    run: Name | None = None
    mode: Mode | None = None
    lineage: Name = MAIN_LINEAGE
    purpose: Purpose = Purpose.TRAIN


class RetryingBatcher:
    """Scores samples without a step, which are pinned by group. Equal samples in flight are one item."""

    def __init__(self, pipeline: ScoringPipeline, *, wait_s: float) -> None:
        self._pipeline = pipeline
        self._batcher: MicroBatcher[Target, ScoreItem, ItemResult] = MicroBatcher(
            self._score_batch, size=_BATCH_SIZE, wait_s=wait_s
        )

    async def score(self, target: Target, items: Sequence[ScoreItem], *, hold_s: float) -> list[ItemResult]:
        """One result an item; none has the error `judge_unavailable`. Retries for up to `hold_s`.

        Raises `Unavailable` or `Overloaded` after that, and other errors of the pipeline at once.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + hold_s
        results: dict[int, ItemResult] = {}
        failures = 0
        while len(results) < len(items):
            problem = await self._try_missing(target, items, results, deadline)
            if problem is None:
                break
            failures += 1
            pause = backoff_s(failures, first_s=_FIRST_BACKOFF_S, max_s=_MAX_BACKOFF_S)
            if loop.time() + pause > deadline:
                raise problem
            await asyncio.sleep(pause)
        return [results[index] for index in range(len(items))]

    async def aclose(self) -> None:
        """Cancel the batches in flight."""
        await self._batcher.aclose()

    async def _try_missing(
        self, target: Target, items: Sequence[ScoreItem], results: dict[int, ItemResult], deadline: float
    ) -> Exception | None:
        """Add what can be scored to `results`; the error to retry, if one remains."""
        futures = {
            index: self._batcher.submit(target, _content_hash(item), item)
            for index, item in enumerate(items)
            if index not in results
        }
        await asyncio.wait(set(futures.values()), timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        problem: Exception | None = None
        for index, future in futures.items():
            try:
                result = future.result() if future.done() and not future.cancelled() else None
            except _RETRIED as error:
                problem = error
                continue
            if result is None:
                problem = judge_unavailable("the sample is still being scored; send it again")
            elif result.error is not None and result.error.code is ErrorCode.JUDGE_UNAVAILABLE:
                problem = judge_unavailable(result.error.message)
            else:
                results[index] = result
        return problem

    async def _score_batch(self, target: Target, items: Sequence[ScoreItem]) -> Sequence[ItemResult]:
        request = ScoreRequest(
            task=target.task,
            run=target.run,
            mode=target.mode,
            lineage=target.lineage,
            purpose=target.purpose,
            items=tuple(items),
        )
        return (await self._pipeline.score(request)).results


def _content_hash(item: ScoreItem) -> bytes:
    return hashlib.sha256(item.model_dump_json().encode()).digest()
