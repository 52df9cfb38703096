"""What the trainers' functions share: where to score, one line to the service a process, and samples made batches.

Settings come as arguments, else from the environment: REGRADE_TASK, REGRADE_RUN, REGRADE_URL, REGRADE_KEY,
REGRADE_MODE, REGRADE_LINEAGE, REGRADE_PATIENCE_S, REGRADE_LIMIT_S, REGRADE_BATCH, REGRADE_BATCH_WAIT_S.
"""

import asyncio
import atexit
import math
import os
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from regrade.client import DEFAULT_URL, RewardClient
from regrade.contracts import MAIN_LINEAGE, ItemResult, Mode, Purpose, ScoreItem, ScoreResponse
from regrade.contracts.base import sha256_of
from regrade.errors import RegradeError, ServiceUnavailableError
from regrade.micro_batching import MicroBatcher

T = TypeVar("T")

_EVALUATION = frozenset({"test", "val", "valid", "validation", "eval", "evaluation"})


Unscored = Literal["error", "nan"]
"""What stands for a sample without a reward where a trainer knows no null: an exception, or NaN for its filter."""


class UnscoredError(RegradeError):
    """A sample has no reward, and this trainer knows no null: the item's error code and message."""


class ScoringConfig(NamedTuple):
    """Where and as what samples are scored."""

    task: str
    run: str | None
    url: str
    key: str
    mode: Mode | None
    lineage: str
    patience_s: float
    limit_s: float | None
    batch: int
    wait_s: float

    def __repr__(self) -> str:
        """Without the key."""
        return f"ScoringConfig({self.task!r}, run={self.run!r}, url={self.url!r})"


def scoring_config(
    *,
    task: str | None = None,
    run: str | None = None,
    url: str | None = None,
    key: str | None = None,
    mode: str | None = None,
    lineage: str | None = None,
    patience_s: float | None = None,
    limit_s: float | None = None,
    batch: int | None = None,
    wait_s: float | None = None,
    default_patience_s: float = 600.0,
) -> ScoringConfig:
    """A place from arguments, else environment variables, else defaults. Raises `ValueError` without a task.

    `patience_s`: how long a call is tried again. `limit_s`: when a call ends whatever happens; none if not told.
    `batch`, `wait_s`: samples that come one by one are sent together, at most so many, and at the latest so long after
    the first of them came.
    """
    task = task or os.environ.get("REGRADE_TASK")
    if not task:
        raise ValueError("which task? give the argument `task`, or set REGRADE_TASK")
    mode = mode or os.environ.get("REGRADE_MODE")
    return ScoringConfig(
        task=task,
        run=run or os.environ.get("REGRADE_RUN") or None,
        url=url or os.environ.get("REGRADE_URL") or DEFAULT_URL,
        key=key if key is not None else os.environ.get("REGRADE_KEY", ""),
        mode=Mode(mode) if mode else None,
        lineage=lineage or os.environ.get("REGRADE_LINEAGE") or MAIN_LINEAGE,
        patience_s=_number(patience_s, "REGRADE_PATIENCE_S", default_patience_s),
        limit_s=_number(limit_s, "REGRADE_LIMIT_S", 0.0) or None,
        batch=int(_number(batch, "REGRADE_BATCH", 64)),
        wait_s=_number(wait_s, "REGRADE_BATCH_WAIT_S", 0.1),
    )


def rank() -> int:
    """This process's rank, where the launcher tells it."""
    return int(os.environ.get("RANK") or 0)


def purpose_of(split: object) -> Purpose:
    """What a sample of a data set's split is scored for."""
    return Purpose.EVAL if isinstance(split, str) and split.lower() in _EVALUATION else Purpose.TRAIN


def with_content_id(item: ScoreItem) -> ScoreItem:
    """The item under an id made of its content: a trainer that calls again with it repeats it, and is billed once."""
    if item.id is not None:
        return item
    return item.model_copy(update={"id": sha256_of(item.model_dump(mode="json", exclude={"metadata"}))[:32]})


def reward_of(result: ItemResult, unscored: Unscored) -> float:
    """The reward. Without one: NaN, or `UnscoredError` raised."""
    if result.reward is not None:
        return result.reward
    if unscored == "nan":
        return math.nan
    assert result.error is not None
    raise UnscoredError(result.error.code, result.error.message)


@dataclass(frozen=True)
class Scorer:
    """Scores at one place, from any thread or event loop. Picklable: what it opens belongs to the process."""

    config: ScoringConfig

    def score(self, items: Sequence[ScoreItem], **options: Any) -> ScoreResponse:
        """A batch in one call. Raises `RegradeError`."""
        return self._result(self._batch(items, options))

    async def score_async(self, items: Sequence[ScoreItem], **options: Any) -> ScoreResponse:
        """`score`, awaited in whatever loop."""
        return await self._awaited(self._batch(items, options))

    def score_one(self, item: ScoreItem, *, step: int | None = None, purpose: Purpose = Purpose.TRAIN) -> ItemResult:
        """A sample, sent together with those that other threads and tasks ask for in this moment."""
        return self._result(self._one(item, step, purpose))

    async def score_one_async(
        self, item: ScoreItem, *, step: int | None = None, purpose: Purpose = Purpose.TRAIN
    ) -> ItemResult:
        """`score_one`, awaited in whatever loop."""
        return await self._awaited(self._one(item, step, purpose))

    def _batch(self, items: Sequence[ScoreItem], options: dict[str, Any]) -> "Future[ScoreResponse]":
        config = self.config
        told = {"run": config.run, "mode": config.mode, "lineage": config.lineage} | options
        thread = _client_thread(config)
        return thread.submit(thread.client.score(config.task, items, **told))

    def _one(self, item: ScoreItem, step: int | None, purpose: Purpose) -> "Future[ItemResult]":
        thread = _client_thread(self.config)
        return thread.submit(thread.score_one(_BatchKey(self.config, step, purpose), with_content_id(item)))

    def _result(self, answer: "Future[T]") -> T:
        try:
            return answer.result(self.config.limit_s)
        except FutureTimeoutError:
            raise self._timeout_error() from None

    async def _awaited(self, answer: "Future[T]") -> T:
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(answer)), self.config.limit_s)
        except TimeoutError:
            raise self._timeout_error() from None

    def _timeout_error(self) -> ServiceUnavailableError:
        return ServiceUnavailableError("timeout", f"no answer in {self.config.limit_s} s; asked again, it may be there")


class _BatchKey(NamedTuple):
    """What the samples of one batch share."""

    config: ScoringConfig
    step: int | None
    purpose: Purpose


class ClientThread:
    """A process's line to one service: a thread with an event loop, its connections, and the batches of its samples."""

    def __init__(self, config: ScoringConfig) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="regrade-client", daemon=True)
        self._thread.start()
        self.client = RewardClient(config.url, key=config.key, patience_s=config.patience_s)
        self._batcher: MicroBatcher[_BatchKey, ScoreItem, ItemResult] = MicroBatcher(
            self._ask, size=config.batch, wait_s=config.wait_s
        )

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run `work` in the line's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def score_one(self, key: _BatchKey, item: ScoreItem) -> ItemResult:
        """The outcome of one sample."""
        seat = self._batcher.submit(key, item.id, item)
        await asyncio.wait({seat})
        return seat.result()

    def close(self) -> None:
        """Drop what is under way, close the connections, end the thread."""
        self.submit(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await self._batcher.aclose()
        await self.client.aclose()

    async def _ask(self, key: _BatchKey, items: Sequence[ScoreItem]) -> Sequence[ItemResult]:
        config = key.config
        told = {"run": config.run, "step": key.step, "mode": config.mode, "lineage": config.lineage}
        response = await self.client.score(config.task, items, purpose=key.purpose, **told)
        return response.results


_client_threads: dict[tuple[int, ScoringConfig], ClientThread] = {}
_client_threads_lock = threading.Lock()


def _client_thread(config: ScoringConfig) -> ClientThread:
    """The process's line for a place's service and limits. A forked child opens its own."""
    shared = config._replace(task="", run=None, mode=None, lineage="", limit_s=None)
    with _client_threads_lock:
        key = (os.getpid(), shared)
        if key not in _client_threads:
            _client_threads[key] = ClientThread(shared)
        return _client_threads[key]


@atexit.register
def close_client_threads() -> None:
    """Close what this process has opened; it is opened again when needed."""
    with _client_threads_lock:
        for key in [key for key in _client_threads if key[0] == os.getpid()]:
            _client_threads.pop(key).close()


def _number(given: float | None, variable: str, default: float) -> float:
    told = os.environ.get(variable)
    if given is not None:
        return float(given)
    return float(told) if told else default
