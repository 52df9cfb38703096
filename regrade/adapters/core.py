"""What the reward functions of all trainers share: their configuration, one client a process, and micro-batches.

Every option of `ScoringConfig` is an argument of the reward function or an environment variable, `REGRADE_TASK` and so
on; the argument wins.
"""

import asyncio
import atexit
import functools
import logging
import math
import os
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import ConfigDict, Field

from regrade.client import DEFAULT_URL, RewardClient
from regrade.contracts import MAIN_LINEAGE, Contract, ItemResult, Mode, Purpose, ScoreItem, ScoreResponse
from regrade.contracts.base import sha256_of
from regrade.errors import RegradeError, ServiceUnavailableError
from regrade.items import ItemFields, RefusedItem, read_item, refused_result
from regrade.loop_thread import LoopThread
from regrade.micro_batching import MicroBatcher
from regrade.transport import checked_key, checked_url

T = TypeVar("T")
log = logging.getLogger("regrade")

_ENVIRONMENT = {"wait_s": "REGRADE_BATCH_WAIT_S"}
"""Environment variables that are not `REGRADE_` and the option's name."""
_EVALUATION_SPLITS = frozenset({"test", "val", "valid", "validation", "eval", "evaluation"})

Unscored = Literal["error", "nan"]
"""What a trainer without null gets for a sample without a reward.

`error` is an exception, which ends the sample, its group or the step. `nan` is only for a trainer whose filter leaves
out a group that holds one: everywhere else it spreads to the advantages of the whole group.
"""
_HINT = "docs/trainers.md says how each trainer leaves out such a sample or its group"


class UnscoredError(RegradeError):
    """A sample has no reward and the trainer has no null: the item's error code and message."""


class ScoringConfig(Contract):
    """Which service scores samples, and as what."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a mistyped name of `key` would be printed with its value

    task: str
    """Task of the samples."""
    run: str | None = None
    """Training run; items of one run and group share a rubric."""
    url: str = DEFAULT_URL
    """URL of the reward service."""
    key: str = Field(default="", repr=False)
    """API key."""
    mode: Mode | None = None
    """How the judge reaches a level; None leaves it to the service."""
    lineage: str = MAIN_LINEAGE
    """Lineage of the rubric."""
    patience_s: float = 600.0
    """Seconds for which a call is retried."""
    limit_s: float | None = None
    """Seconds after which a call ends with an error, whatever happens; None or 0 for no limit."""
    batch: int = 64
    """Largest number of single samples in one request."""
    wait_s: float = 0.1
    """Longest time that the first sample of a batch waits for others, in seconds."""

    @classmethod
    def resolve(cls, *, default_patience_s: float = 600.0, **options: Any) -> Self:
        """From options, else environment variables, else defaults; None and "" count as not given.

        An empty `key` is the exception: it means no key. Raises `ValueError`; `ConfigurationError` for URL and key.
        """
        variables = {
            name: os.environ.get(_ENVIRONMENT.get(name, f"REGRADE_{name.upper()}")) for name in cls.model_fields
        }
        values = {name: value for name, value in variables.items() if value}
        values |= {name: value for name, value in options.items() if value not in (None, "")}
        if options.get("key") == "":
            values["key"] = ""
        if not values.get("task"):
            raise ValueError("no task: give the argument `task`, or set REGRADE_TASK")
        checked_url(values.get("url", DEFAULT_URL))
        values["key"] = checked_key(values.get("key", ""))
        return cls.model_validate({"patience_s": default_patience_s} | values)

    @property
    def request_fields(self) -> dict[str, Any]:
        """The fields of `ScoreRequest` that the configuration sets."""
        return {"run": self.run, "mode": self.mode, "lineage": self.lineage}


def rank() -> int:
    """This process's rank, from the launcher's `RANK`."""
    return int(os.environ.get("RANK") or 0)


def purpose_of(split: object) -> Purpose:
    """`eval` for the name of an evaluation split, else `train`."""
    return Purpose.EVAL if isinstance(split, str) and split.lower() in _EVALUATION_SPLITS else Purpose.TRAIN


def with_content_id(item: ScoreItem) -> ScoreItem:
    """The item with an id that is a hash of its content, so that a trainer's own retry is billed once."""
    if item.id is not None:
        return item
    return item.model_copy(update={"id": sha256_of(item.model_dump(mode="json", exclude={"metadata"}))[:32]})


def reward_of(result: ItemResult, unscored: Unscored) -> float:
    """The reward; without one NaN, or `UnscoredError` raised."""
    if result.reward is not None:
        return result.reward
    if unscored == "nan":
        return math.nan
    assert result.error is not None
    raise UnscoredError(result.error.code, f"{result.error.message} ({_HINT})")


def log_unscored(result: ItemResult) -> ItemResult:
    """The result; the reason for a missing reward is logged, since a trainer keeps none. Each reason once a process."""
    if result.error is not None:
        _warn_once(result.error.code, result.error.message)
    return result


@functools.lru_cache(maxsize=1_024)
def _warn_once(code: str, message: str) -> None:
    log.warning("a sample has no reward: %s: %s", code, message)


class Pending(Generic[T]):
    """A result that a thread waits for with `result()`, and any event loop with `await`. Raises `RegradeError`."""

    def __init__(self, future: "Future[T]", limit_s: float | None) -> None:
        self._future = future
        self._limit_s = limit_s or None

    def result(self) -> T:
        """Wait, at most `limit_s`."""
        try:
            return self._future.result(self._limit_s)
        except FutureTimeoutError:
            raise self._timeout_error() from None

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        # Shielded, since the request continues after a timeout: a retry then joins it or finds its stored result.
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._future)), self._limit_s)
        except TimeoutError:
            raise self._timeout_error() from None

    def _timeout_error(self) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            "timeout", f"no answer in {self._limit_s} s; scoring continues, and a retry may find the reward"
        )


class Scorer:
    """Scores samples from any thread or event loop. Picklable: the connections belong to the process, not to it.

    `options` are those of `ScoringConfig.resolve`. A sample is a `ScoreItem` or its fields in any shape that a trainer
    gives them: one that cannot be scored has the error `invalid_item`, and no exception is raised for it.
    """

    def __init__(self, **options: Any) -> None:
        self.config = ScoringConfig.resolve(**options)

    def score(self, items: Sequence[ScoreItem | ItemFields], **options: Any) -> Pending[ScoreResponse]:
        """Score a batch in one call; `options` are fields of `ScoreRequest`."""
        thread, config = _client_thread(self.config), self.config
        future = thread.submit(thread.score, config.task, items, config.request_fields | options)
        return Pending(future, config.limit_s)

    def score_one(
        self, item: ScoreItem | ItemFields, *, step: int | None = None, purpose: Purpose = Purpose.TRAIN
    ) -> Pending[ItemResult]:
        """Score a sample, in one request with those that other threads and tasks submit within `wait_s`."""
        thread, key = _client_thread(self.config), _BatchKey(self.config, step, purpose)
        read = read_item(item)
        if isinstance(read, RefusedItem):
            refused: Future[ItemResult] = Future()
            refused.set_result(log_unscored(refused_result(read, self.config.lineage)))
            return Pending(refused, None)
        return Pending(thread.submit(thread.score_one, key, with_content_id(read)), self.config.limit_s)


class _BatchKey(NamedTuple):
    """What the samples of one request share."""

    config: ScoringConfig
    step: int | None
    purpose: Purpose


class ClientThread(LoopThread):
    """A process's client of one service, and the micro-batches of its samples, in a thread of their own."""

    def __init__(self, config: ScoringConfig) -> None:
        self.client = RewardClient(config.url, key=config.key, patience_s=config.patience_s)
        super().__init__("regrade-client")
        self._batcher: MicroBatcher[_BatchKey, ScoreItem, ItemResult] = MicroBatcher(
            self._score_batch, size=config.batch, wait_s=config.wait_s
        )

    async def score(self, task: str, items: Sequence[ScoreItem | ItemFields], options: dict[str, Any]) -> ScoreResponse:
        """Score a batch, and log why an item has no reward."""
        response = await self.client.score(task, items, **options)
        for result in response.results:
            log_unscored(result)
        return response

    async def score_one(self, key: _BatchKey, item: ScoreItem) -> ItemResult:
        """Submit a sample to its batch and wait for the result."""
        future = self._batcher.submit(key, item.id, item)
        await asyncio.wait({future})
        return future.result()

    async def aclose(self) -> None:
        """Cancel the batches and close the connections."""
        await self._batcher.aclose()
        await self.client.aclose()

    async def _score_batch(self, key: _BatchKey, items: Sequence[ScoreItem]) -> Sequence[ItemResult]:
        config = key.config
        options = config.request_fields | {"step": key.step, "purpose": key.purpose}
        return (await self.score(config.task, items, options)).results


_client_threads: dict[tuple[int, ScoringConfig], ClientThread] = {}
_client_threads_lock = threading.Lock()


def _client_thread(config: ScoringConfig) -> ClientThread:
    """The process's client for a service and its limits. Threads do not survive a fork, so a child makes its own."""
    shared = {"task": "", "run": None, "mode": None, "lineage": "", "limit_s": None}
    key = (os.getpid(), config.model_copy(update=shared))
    with _client_threads_lock:
        if key not in _client_threads:
            _client_threads[key] = ClientThread(config)
        return _client_threads[key]


@atexit.register
def close_client_threads() -> None:
    """Close this process's clients; the next call makes new ones."""
    with _client_threads_lock:
        for key in [key for key in _client_threads if key[0] == os.getpid()]:
            thread = _client_threads.pop(key)
            thread.close(thread.aclose)
