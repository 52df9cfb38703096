"""I2 under fire: two replicas, many clients at the same moment, activations all the time; one digest a pin."""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack

from regrade import RewardClient
from services.kit.store.rubric_store import RubricStore
from tests.conftest import StartReward
from tests.support.builders import TASK, activate, checks_only, item

STEPS = 200
CLIENTS = 8


async def _activate_until(store: RubricStore, stop: asyncio.Event) -> int:
    words = 20
    while not stop.is_set():
        words += 1
        await activate(store, checks_only(words))
    return words - 20


async def _digests_by_pin(start_reward: StartReward, store: RubricStore, *, by_step: bool) -> dict[int, set[str]]:
    await activate(store, checks_only())
    urls = [start_reward().url, start_reward().url]
    stop = asyncio.Event()
    seen: defaultdict[int, set[str]] = defaultdict(set)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RewardClient(urls[n % 2])) for n in range(CLIENTS)]
        activations = asyncio.create_task(_activate_until(store, stop))

        async def first_call(client: RewardClient, rank: int, pin: int) -> None:
            where = {"step": pin} if by_step else {}
            items = [item(rank, id=f"{rank}", group=f"g{pin}")]
            response = await client.score(TASK, items, run="run", **where)
            seen[pin].add(response.results[0].rubric.digest)

        for pin in range(STEPS):
            await asyncio.gather(*(first_call(client, rank, pin) for rank, client in enumerate(clients)))
        stop.set()
        assert await activations > STEPS / 4, "too few activations to prove anything"
    return seen


async def test_i2_step_pins_under_fire(start_reward: StartReward, store: RubricStore) -> None:
    seen = await _digests_by_pin(start_reward, store, by_step=True)
    assert len(seen) == STEPS
    assert all(len(digests) == 1 for digests in seen.values())
    assert len(set.union(*seen.values())) > 10, "the rubric has to change while it is scored by"


async def test_i2_group_pins_under_fire(start_reward: StartReward, store: RubricStore) -> None:
    seen = await _digests_by_pin(start_reward, store, by_step=False)
    assert all(len(digests) == 1 for digests in seen.values())
    assert len(set.union(*seen.values())) > 10
