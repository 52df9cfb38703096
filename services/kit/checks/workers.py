"""Worker processes for checks that may never end or may take all memory, since they compute with what a policy wrote.

A worker that exceeds its time or its memory is replaced. Each batch has a share: it occupies at most half of the
workers at a time, and has a budget of seconds, so that one batch cannot keep the others waiting.
"""

import asyncio
import importlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from services.kit.checks.base import CheckError

if TYPE_CHECKING:
    from pebble import ProcessPool

R = TypeVar("R")
_INLINE_STEPS = 10_000_000
"""Of a batch; a pattern of 30 steps on 300 completions of 1,000 characters. A call of a worker costs 0.15 ms of CPU."""
_OUT_OF_MEMORY = 78
"""Exit status of a worker at its memory limit: it is replaced, since its heap stays full."""


class CheckWorkers:
    """A pool of worker processes, spawned at the first call.

    `timeout_s` and `memory_bytes` limit one call and one worker, `batch_s` the computing time of one batch.
    The modules in `preload` are imported before a worker takes calls, so that no call pays for them.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 3.0,
        workers: int = 4,
        memory_bytes: int = 512 << 20,
        batch_s: float = 60.0,
        preload: tuple[str, ...] = ("latex2sympy2_extended.latex2sympy2",),
    ) -> None:
        self.timeout_s = timeout_s
        self.batch_s = batch_s
        self.batch_workers = max(1, workers // 2)
        self._workers = workers
        self._memory_bytes = memory_bytes
        self._preload = preload
        self._pool: ProcessPool | None = None

    def share(self) -> "WorkerShare":
        """A batch's part of the workers."""
        return WorkerShare(self)

    async def call(self, function: Callable[..., R], *args: Any) -> tuple[R, float]:
        """The function's result and the seconds of computing that it took. Raises `CheckError`, and what it raises."""
        from pebble import ProcessExpired

        try:
            return await asyncio.wrap_future(self._schedule(function, *args))
        except TimeoutError as error:
            raise CheckError(f"not decided in {self.timeout_s:g} s") from error
        except ProcessExpired as error:
            if error.exitcode == _OUT_OF_MEMORY:
                raise CheckError(f"not decided in {self._memory_bytes >> 20} MiB of memory") from error
            raise CheckError("its worker process died", retryable=True) from error
        except BrokenProcessPool as error:
            raise CheckError("its worker process died", retryable=True) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the caller was cancelled, not the pool's future
            raise CheckError("its worker process died", retryable=True) from error

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def _schedule(self, function: Callable[..., R], *args: Any) -> "Future[tuple[R, float]]":
        call = {"args": (function, *args), "timeout": self.timeout_s}
        try:
            future: Future[tuple[R, float]] = self._open().schedule(_measured, **call)
        except RuntimeError:  # a worker that dies while idle breaks its pool; this call has not begun
            self.close()
            future = self._open().schedule(_measured, **call)
        return future

    def _open(self) -> "ProcessPool":
        from pebble import ProcessPool  # the meta-reward service imports the catalogue of checks, and has no workers

        if self._pool is None:
            self._pool = ProcessPool(
                self._workers,
                context=multiprocessing.get_context("spawn"),
                initializer=_prepare,
                initargs=(self._memory_bytes, self._preload),
            )
        return self._pool


class WorkerShare:
    """One batch's part of the workers; made by `CheckWorkers.share`."""

    def __init__(self, workers: CheckWorkers) -> None:
        self._workers = workers
        self._free = asyncio.Semaphore(workers.batch_workers)
        self.left_s = workers.batch_s
        """Seconds of computing that the batch may still use."""
        self._inline_steps = _INLINE_STEPS

    def take_inline(self, steps: int) -> bool:
        """Whether so many steps of a regex may run in this process, which is faster than to ask a worker.

        A step takes 10 ns at worst, so that one batch holds up the others for 0.1 s at most.
        """
        if steps > self._inline_steps:
            return False
        self._inline_steps -= steps
        return True

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        """The result of a function of a module, in a worker. Raises `CheckError`, and what the function raises.

        The error is retryable where the batch has used its time up or the worker died, and is not where this call
        exceeds its own time or memory.
        """
        async with self._free:
            if self.left_s <= 0.0:
                raise CheckError(
                    f"the batch has used its {self._workers.batch_s:g} s of computing for checks; send this item again",
                    retryable=True,
                )
            started, seconds = time.monotonic(), None
            try:
                result, seconds = await self._workers.call(function, *args)
                return result
            finally:  # of a call that fails, the time in the queue counts, too
                failed_s = min(self._workers.timeout_s, time.monotonic() - started)
                self.left_s -= failed_s if seconds is None else seconds


def _prepare(memory_bytes: int, preload: tuple[str, ...]) -> None:
    for module in preload:
        importlib.import_module(module)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, hard))


def _measured(function: Callable[..., R], *args: Any) -> tuple[R, float]:
    started = time.process_time()
    try:
        result = function(*args)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    return result, time.process_time() - started
