"""A batch of answers that never end: its items are errors, its neighbours are served, and memory is bounded."""

import asyncio

import psutil
import pytest

from regrade import RewardClient
from services.kit.store.rubric_store import RubricStore
from tests.support.builders import TASK, activate, check, item, rubric

_ENDLESS = r"\boxed{\prod_{k=1}^{10^7} k}"
_WORKER_LIMIT = 700 << 20


def _memory_of_workers() -> list[int]:
    """Resident bytes of this process's workers; engines of other tests are children of it, too."""
    children = psutil.Process().children(recursive=True)
    return [child.memory_info().rss for child in children if "multiprocessing.spawn" in " ".join(child.cmdline())]


@pytest.mark.slow
async def test_a_batch_without_end_delays_no_other(client: RewardClient, store: RubricStore) -> None:
    await activate(store, rubric(check("same", {"check": "math_equal"})))
    items = [item(n, id=f"e{n}", completion=_ENDLESS, reference=str(n)) for n in range(512)]
    endless = asyncio.create_task(client.score(TASK, items, run="r", step=1))
    largest = 0
    for step in range(2, 6):
        right = [item(n, id=f"s{step}.{n}", completion=rf"\boxed{{{n}}}", reference=str(n)) for n in range(8)]
        answered = await client.score(TASK, right, run="r", step=step)
        assert [result.reward for result in answered.results] == [1.0] * 8
        largest = max([largest, *_memory_of_workers()])
    assert not endless.done()
    results = (await endless).results
    errors = [result.error for result in results]
    assert all(result.reward is None for result in results)
    assert {error.code for error in errors if error} == {"check_failed"}
    kinds = {error.retryable: error.message for error in errors if error}
    assert "not decided in 3 s" in kinds[False]
    assert "has used its 60 s" in kinds[True]
    assert 0 < largest < _WORKER_LIMIT
