"""Worker processes: one call's time and memory are bounded, and a batch has a share of the workers."""

import asyncio
import os
from collections.abc import Iterator

import psutil
import pytest

from services.kit.checks.base import CheckError
from services.kit.checks.workers import CheckWorkers, WorkerShare


def double(number: int) -> int:
    return 2 * number


def never_ends() -> None:
    while True:
        pass


def take_memory(size: int) -> int:
    return len(bytearray(size))


def compute(rounds: int) -> int:
    return sum(number * number for number in range(rounds))


def die() -> None:
    os._exit(1)


@pytest.fixture
def workers() -> Iterator[CheckWorkers]:
    pool = CheckWorkers(timeout_s=60.0, workers=2, preload=())
    yield pool
    pool.close()


@pytest.fixture
def hurried() -> Iterator[CheckWorkers]:
    pool = CheckWorkers(timeout_s=2.0, workers=2, batch_s=3.0, preload=())
    yield pool
    pool.close()


async def error_of(share: WorkerShare, *call: object) -> CheckError:
    with pytest.raises(CheckError) as caught:
        await share.run(*call)  # type: ignore[arg-type]
    return caught.value


async def test_more_memory_than_the_limit_is_an_error_and_the_next_call_is_served(workers: CheckWorkers) -> None:
    share = workers.share()
    error = await error_of(share, take_memory, 1 << 30)
    assert "512 MiB of memory" in str(error)
    assert not error.retryable
    assert await share.run(take_memory, 1 << 20) == 1 << 20
    assert await share.run(double, 21) == 42


async def test_a_call_without_end_is_an_error_that_no_retry_helps(hurried: CheckWorkers) -> None:
    error = await error_of(hurried.share(), never_ends)
    assert "not decided in 2 s" in str(error)
    assert not error.retryable


async def test_a_batch_that_used_its_time_up_is_told_to_come_again(hurried: CheckWorkers) -> None:
    """The budget of 3 s is passed after two calls of 2 s; another batch is not concerned."""
    share = hurried.share()
    errors = await asyncio.gather(*(share.run(never_ends) for _ in range(6)), return_exceptions=True)
    assert [isinstance(error, CheckError) and error.retryable for error in errors] == [False] * 2 + [True] * 4
    assert "used its 3 s" in str(errors[-1])
    assert (await error_of(share, double, 21)).retryable
    assert await hurried.share().run(double, 21) == 42


async def test_only_computing_counts_against_a_batch() -> None:
    workers = CheckWorkers(timeout_s=60.0, workers=2, batch_s=1.0, preload=())
    share = workers.share()
    try:
        for _ in range(5):
            await share.run(double, 21)
        assert 0.9 < share.left_s <= 1.0
        await share.run(compute, 3_000_000)
        assert share.left_s < 0.95
    finally:
        workers.close()


async def test_one_batch_leaves_workers_to_the_others(workers: CheckWorkers) -> None:
    """Of two workers a batch occupies one, however many of its items never end."""
    share = workers.share()
    stuck = [asyncio.create_task(share.run(never_ends)) for _ in range(20)]
    await asyncio.sleep(0)
    assert await workers.share().run(double, 21) == 42
    assert not any(task.done() for task in stuck)
    for task in stuck:
        task.cancel()
    ends = await asyncio.gather(*stuck, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}, "a cancelled caller gets no error of the item"


async def test_a_worker_that_dies_is_an_error_that_a_retry_may_mend(workers: CheckWorkers) -> None:
    assert (await error_of(workers.share(), die)).retryable
    assert await workers.share().run(double, 21) == 42


def recurse() -> None:
    recurse()


async def test_a_function_that_recurses_ends_no_other_call(workers: CheckWorkers) -> None:
    """`RecursionError` is a `RuntimeError`, as is what a broken pool raises."""
    stuck = asyncio.create_task(workers.share().run(never_ends))
    with pytest.raises(RecursionError):
        await workers.share().run(recurse)
    assert not stuck.done()
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)


async def test_workers_that_die_while_idle_cost_no_call(workers: CheckWorkers) -> None:
    assert await workers.share().run(double, 21) == 42
    for worker in psutil.Process().children():
        if "spawn_main" in " ".join(worker.cmdline()):
            worker.kill()
    await asyncio.sleep(1.0)  # the pool polls its workers
    assert await workers.share().run(double, 21) == 42


async def test_what_a_function_raises_is_raised_here(workers: CheckWorkers) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await workers.share().run(int, "a")
