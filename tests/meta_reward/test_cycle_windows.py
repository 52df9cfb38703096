"""When a cycle begins, what it reads, and that no trace is read twice or never."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.kit.text.segments import words
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.propose.base import Progress, ProposalContext
from services.meta_reward.types import Proposal
from services.meta_reward.worker.worker import Worker
from tests.support.builders import ESSAY, LINEAGE, TASK, item
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import POOR, meta_script, running_meta, train


async def test_a_window_is_consumed_once(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await train(meta.client, step=1)
        await meta.worker.run_due_cycle(LINEAGE)
        await meta.worker.run_due_cycle(LINEAGE)
        assert len(await meta.deps.status_store.reports(LINEAGE)) == 1
        await train(meta.client, step=2)
        await meta.worker.run_due_cycle(LINEAGE)
        windows = [report.evidence.window for report in await meta.deps.status_store.reports(LINEAGE)]
        assert len(windows) == 2
        assert windows[0][1] == windows[1][0]


async def test_no_cycle_before_its_time_but_on_request(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, every_traces=100) as meta:
        await meta.deps.status_store.request(LINEAGE, "me", "nothing to see yet")
        await meta.worker.run_due_cycle(LINEAGE)
        assert await meta.deps.status_store.reports(LINEAGE) == []
        assert await meta.deps.status_store.requested(LINEAGE) is None, "a request without traces must be withdrawn"
        await train(meta.client)
        await meta.worker.run_due_cycle(LINEAGE)
        assert await meta.deps.status_store.reports(LINEAGE) == []
        assert (await meta.deps.status_store.status(LINEAGE)).lag == 8
        await meta.deps.status_store.request(LINEAGE, "me", "now")
        await meta.worker.run_due_cycle(LINEAGE)
        assert [report.trigger for report in await meta.deps.status_store.reports(LINEAGE)] == ["requested by me: now"]


async def test_evaluation_never_stands_in_the_way(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """More eval traces than a window holds lie before the training traces: a cycle comes, and consumes both."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, max_window=8) as meta:
        evals = [item(n, id=str(n)) for n in range(24)]
        await meta.client.score(TASK, evals, run="r", step=0, purpose="eval")
        await train(meta.client)
        await meta.client.score(TASK, evals[:3], run="r", step=2, purpose="eval")
        await meta.worker.run_due_cycle(LINEAGE)
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.evidence.traces == 8
        assert report.evidence.first_step == 1
        await train(meta.client, step=3, count=7)
        await meta.worker.run_due_cycle(LINEAGE)
        assert (await meta.deps.status_store.status(LINEAGE)).lag == 7, "what a cycle consumed does not wait"
        assert len(await meta.deps.status_store.reports(LINEAGE)) == 1


async def test_a_request_made_during_a_cycle_gets_one_of_its_own(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, every_traces=100) as meta:
        status_store = meta.deps.status_store

        class Asks:
            """A proposer while which an operator asks once more, in the same words."""

            name = "asks"

            async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
                await status_store.request(LINEAGE, "me", "now")
                return Proposal((), ())

        worker = Worker(meta.deps._replace(proposers=[Asks()]), meta.leases, MetaRewardMetrics(CollectorRegistry()))
        await train(meta.client)
        await status_store.request(LINEAGE, "me", "now")
        await worker.run_due_cycle(LINEAGE)
        assert len(await status_store.reports(LINEAGE)) == 1
        assert await status_store.requested(LINEAGE) is not None, "the second request was not served"
        await train(meta.client, step=2)
        await meta.worker.run_due_cycle(LINEAGE)
        assert [report.trigger for report in await status_store.reports(LINEAGE)] == ["requested by me: now"] * 2
        assert await status_store.requested(LINEAGE) is None


async def test_two_workers_run_one_cycle(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with (
        running_meta(redis, reward_url, fake_engine) as one,
        running_meta(redis, reward_url, fake_engine) as other,
    ):
        await train(one.client)
        await asyncio.gather(one.worker.run_due_cycle(LINEAGE), other.worker.run_due_cycle(LINEAGE))
        assert len(await one.deps.status_store.reports(LINEAGE)) == 1
        versions = await one.deps.store.versions(LINEAGE)
        assert list(versions) == [1, 2]


async def test_a_run_is_measured_against_its_own_first_steps(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """The line's first 64 traces are another run's; the second run began in a window that the first one ended."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await train(meta.client, "Trees.", run="one", step=1, count=64)
        await train(meta.client, ESSAY, run="two", step=1)
        await train(meta.client, "Trees.", run="one", step=2)
        await meta.worker.run_due_cycle(LINEAGE)
        await train(meta.client, POOR, run="two", step=2)
        await meta.worker.run_due_cycle(LINEAGE)
        evidence = (await meta.deps.status_store.reports(LINEAGE))[-1].evidence
        assert evidence.traces == 8
        baseline = 0.5 * (len(words(POOR)) + len(words(ESSAY)))
        assert evidence.drift["words"] == pytest.approx(len(words(POOR)) - baseline)
        assert "words_fell" in {alarm.name for alarm in evidence.alarms}
