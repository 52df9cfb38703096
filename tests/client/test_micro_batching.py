"""Callers of one item each become one call: by number, by time, by key; equals join; failures and ends reach all."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from regrade.micro_batching import MicroBatcher


class Batches:
    """Doubles each item; records the items of each call, and can fail or wait."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.error: Exception | None = None
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, key: str, items: Sequence[int]) -> Sequence[int]:
        self.calls.append((key, list(items)))
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        return [2 * item for item in items]


async def test_a_call_leaves_when_it_is_full() -> None:
    batches = Batches()
    batcher = MicroBatcher(batches, size=3, wait_s=3_600.0)
    futures = [batcher.submit("a", n, n) for n in range(4)]
    assert await asyncio.gather(*futures[:3]) == [0, 2, 4]
    assert batches.calls == [("a", [0, 1, 2])]
    await batcher.aclose()


async def test_a_call_leaves_when_its_first_item_has_waited() -> None:
    batches = Batches()
    batcher = MicroBatcher(batches, size=3, wait_s=0.2)
    started = time.monotonic()
    assert await batcher.submit("a", 1, 1) == 2
    assert time.monotonic() - started > 0.15
    assert batches.calls == [("a", [1])]


async def test_keys_are_kept_apart() -> None:
    batches = Batches()
    batcher = MicroBatcher(batches, size=10, wait_s=0.01)
    await asyncio.gather(batcher.submit("a", 1, 1), batcher.submit("b", 1, 1))
    assert batches.calls == [("a", [1]), ("b", [1])]


async def test_equals_join_while_one_is_under_way() -> None:
    batches = Batches()
    batches.hold.clear()
    batcher = MicroBatcher(batches, size=1, wait_s=0.0)
    first = batcher.submit("a", "n", 1)
    await asyncio.sleep(0)
    assert batcher.submit("a", "n", 1) is first
    batches.hold.set()
    assert await first == 2
    assert await batcher.submit("a", "n", 1) == 2
    assert len(batches.calls) == 2


async def test_a_failure_reaches_all_and_the_next_call_is_its_own() -> None:
    batches = Batches()
    batches.error = ValueError("no")
    batcher = MicroBatcher(batches, size=2, wait_s=1.0)
    futures = [batcher.submit("a", n, n) for n in range(2)]
    for future in futures:
        with pytest.raises(ValueError, match="no"):
            await future
    batches.error = None
    assert await asyncio.gather(*(batcher.submit("a", n, n) for n in range(2))) == [0, 2]


async def test_nobody_waits_for_what_is_closed() -> None:
    batches = Batches()
    batches.hold.clear()
    batcher = MicroBatcher(batches, size=2, wait_s=0.05)
    under_way = [batcher.submit("a", n, n) for n in range(2)]
    pending = batcher.submit("b", 1, 1)
    await asyncio.sleep(0)
    await batcher.aclose()
    assert all(future.cancelled() for future in (*under_way, pending))
    await asyncio.sleep(0.1)
    assert batches.calls == [("a", [0, 1])]
