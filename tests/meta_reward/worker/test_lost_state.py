"""Redis loses data under a running worker: it says so, and the next cycle is a whole one."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from regrade.contracts import Stage
from services.kit.store import keys
from services.kit.store.rubric_store import RubricStore
from tests.support.builders import LINEAGE, TASK
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import Meta, meta_script, running_meta, train, working
from tests.support.waiting import until

LOSSES: dict[str, Callable[[Redis], Awaitable[object]]] = {
    "lease": lambda redis: redis.delete(keys.lease_key(LINEAGE)),
    "lease and its counter": lambda redis: redis.delete(keys.lease_key(LINEAGE), keys.lease_counter_key(LINEAGE)),
    "checkpoint": lambda redis: redis.delete(keys.checkpoint_key(LINEAGE)),
    "consumer group": lambda redis: redis.xgroup_destroy(keys.traces_key(TASK), LINEAGE.label),
    "scripts": lambda redis: redis.script_flush(),
    "status": lambda redis: redis.delete(keys.cycle_key(LINEAGE), keys.lag_key(LINEAGE), keys.alarms_key(LINEAGE)),
}


async def _reports(meta: Meta) -> int:
    return len(await meta.deps.status_store.reports(LINEAGE))


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
async def test_a_part_lost_in_the_middle_of_a_cycle_costs_no_activation(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, lose: Callable[[Redis], Awaitable[object]]
) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, poll_s=0.05) as meta:
        await train(meta.client)
        fake_engine.stop()

        async def is_at_gate() -> bool:
            return (await meta.deps.status_store.status(LINEAGE)).stage is Stage.GATE

        async def is_reported() -> bool:
            active = await meta.deps.store.active(LINEAGE)
            return active is not None and active.version == 2 and await _reports(meta) >= 1

        async with working(meta.worker):
            await until(is_at_gate, "the cycle to reach its gate")
            await lose(redis)
            fake_engine.start()
            await until(is_reported, "an activation and its report")
        cursor = await meta.deps.log.cursor(LINEAGE)
        assert (await meta.deps.log.read(LINEAGE, cursor, 100)).traces == []


@pytest.mark.parametrize("steps", [1, 2], ids=["with new traces", "without traces at first"])
async def test_an_emptied_redis_begins_a_new_history(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    """Traces that Redis has lost are no evidence of a new cycle, whose window must be there to be read again."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, poll_s=0.05) as meta:
        await train(meta.client, count=4)

        async def has_read() -> bool:
            return (await meta.deps.status_store.status(LINEAGE)).lag == 4

        async def activated() -> bool:
            active = await RubricStore(redis).active(LINEAGE)
            return active is not None and active.version == 2

        async with working(meta.worker):
            await until(has_read, "the worker to read")
            await redis.flushall()
            if steps == 2:
                await until(lambda: "has lost" in caplog.text, "the log")
            await train(meta.client, count=8, step=2)
            await until(activated, "an activation")
        assert "Redis has lost a lineage's cursor" in caplog.text
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.evidence.traces == 8
        assert report.abandoned is None
