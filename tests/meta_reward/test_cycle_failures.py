"""Cycles that fail: what they cost, what they say, and that the next one has its window."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from regrade import AccessError, ServiceUnavailableError
from regrade.contracts import EventKind, Stage
from services.kit.store.rubric_store import RubricStore
from services.meta_reward.propose.base import Progress, ProposalContext
from services.meta_reward.types import Proposal
from tests.conftest import StartReward
from tests.support.builders import LINEAGE, TASK, activate, llm, rubric
from tests.support.fake_engine import FakeEngine, Reply, certain, chat
from tests.support.meta import meta_script, running_meta, train, working
from tests.support.waiting import until


async def test_a_worker_outlives_a_failing_cycle(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """With the judge away the gate can't measure; the window stays; when it is back the cycle succeeds."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, poll_s=0.05) as meta:
        await train(meta.client)
        fake_engine.stop()

        async def is_at_gate() -> bool:
            return (await meta.deps.status_store.status(LINEAGE)).stage is Stage.GATE

        async def activated() -> bool:
            active = await meta.deps.store.active(LINEAGE)
            return active is not None and active.version == 2

        async with working(meta.worker):
            await until(is_at_gate, "the cycle to reach its gate")
            fake_engine.start()
            await until(activated, "an activation")


async def test_a_wrong_reward_key_costs_nothing_and_is_told(
    redis: Redis, start_reward: StartReward, fake_engine: FakeEngine
) -> None:
    """No meta-judge call, no proposal on record; the status says why, and the next poll does not try again at once."""
    fake_engine.script = meta_script(lambda _: certain(3))
    url = start_reward(bootstrap_tasks=[TASK], api_keys=["key-of-the-trainer"]).url
    async with (
        running_meta(redis, url, fake_engine, key="key-of-the-trainer") as trainer,
        running_meta(redis, url, fake_engine, llm=True, key="wrong") as meta,
    ):
        await train(trainer.client)
        before = len(fake_engine.calls)
        with pytest.raises(AccessError):
            await meta.worker.run_due_cycle(LINEAGE)
        status = await meta.deps.status_store.status(LINEAGE)
        assert status.stage is Stage.IDLE
        assert "unauthorized" in (status.error or "")
        await meta.worker.run_due_cycle(LINEAGE)
        assert len(fake_engine.calls) == before
        assert [event.kind for event in await meta.deps.store.history(LINEAGE)] == [EventKind.ACTIVATED]
        fake_engine.hold()
        fake_engine.forget()
        next_try = asyncio.create_task(trainer.worker.run_due_cycle(LINEAGE))
        await asyncio.to_thread(fake_engine.wait_for_calls, 1)
        during = await meta.deps.status_store.status(LINEAGE)
        assert during.stage is not Stage.IDLE
        assert during.error == status.error
        fake_engine.release()
        await next_try
        assert (await meta.deps.status_store.status(LINEAGE)).error is None


class Broken:
    """A proposer with a defect."""

    name = "broken"

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        raise KeyError("a name that nobody thought of")


async def test_a_proposer_that_breaks_costs_its_proposal_alone(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """It would break at every try, and each cycle would have the same window: the lineage would make no progress."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        deps = meta.deps._replace(proposers=[Broken(), *meta.deps.proposers])
        await train(meta.client)
        await type(meta.worker)(deps, meta.leases, meta.worker._metrics).run_due_cycle(LINEAGE)
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.candidates > 0
        (failed,) = [e for e in await meta.deps.store.history(LINEAGE) if e.kind is EventKind.FAILED]
        assert (failed.by, failed.reason) == ("broken", "broken: raised KeyError; see the log")


async def test_a_check_is_proposed_beside_a_criterion_of_its_name(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, store: RubricStore
) -> None:
    """The catalogue names criteria after their checks; a rubric written by hand may have that name already."""
    fake_engine.script = meta_script(lambda _: certain(3))
    await activate(store, rubric(llm("min_words"), llm("min_words_check")))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await train(meta.client, "A title")
        await meta.worker.run_due_cycle(LINEAGE)
        proposed = [e for e in await meta.deps.store.history(LINEAGE) if e.kind is EventKind.PROPOSED]
        candidates = [await meta.deps.store.get(TASK, event.digest) for event in proposed]
        names = {c.id for candidate in candidates for c in candidate.check_criteria if c.check.check == "min_words"}
        assert names == {"min_words_check2"}


async def test_a_failing_cycle_is_tried_again_later(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """Its judge is away: proposals are made once, not at every poll."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, poll_s=0.05) as meta:
        await train(meta.client)
        fake_engine.stop()
        with pytest.raises(ServiceUnavailableError):
            await meta.worker.run_due_cycle(LINEAGE)
        proposed = len(await meta.deps.store.history(LINEAGE))
        for _ in range(3):
            await meta.worker.run_due_cycle(LINEAGE)
        assert len(await meta.deps.store.history(LINEAGE)) == proposed
        fake_engine.start()

        async def is_done() -> bool:
            return len(await meta.deps.status_store.reports(LINEAGE)) == 1

        async with working(meta.worker):
            await until(is_done, "another try")


async def test_a_gate_that_loses_its_judge_decides_nothing(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """The judge serves some anchors of a batch and not the others: no verdict, no candidate refused, window unread."""
    trained = 8
    fake_engine.script = meta_script(
        lambda _: certain(3) if len(fake_engine.calls) <= trained + 5 else Reply({"error": "away"}, 503)
    )
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await train(meta.client, count=trained)
        with pytest.raises(ServiceUnavailableError, match="judge_unavailable"):
            await meta.worker.run_due_cycle(LINEAGE)
        assert len(fake_engine.calls) > trained + 5, "the judge was to go in the middle of it"
        assert await meta.deps.log.cursor(LINEAGE) == "0-0"
        assert await meta.deps.status_store.reports(LINEAGE) == []
        assert all(event.kind is not EventKind.REJECTED for event in await meta.deps.store.history(LINEAGE))


@pytest.mark.parametrize("step", ['"verdict"', '"inflated"', "Write one to three", "Merge the proposals"])
@pytest.mark.parametrize(
    "reply",
    [Reply({}, 500), chat("no JSON"), chat('{"verdict": "excellent", "criteria": []}'), Reply({"choices": []})],
    ids=["HTTP 500", "no JSON", "wrong schema", "no choice"],
)
async def test_a_meta_judge_that_fails_costs_its_proposal_alone(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, step: str, reply: Reply
) -> None:
    fake_engine.script = meta_script(lambda _: certain(3), lambda prompt: reply if step in prompt else None)
    async with running_meta(redis, reward_url, fake_engine, llm=True) as meta:
        await train(meta.client)
        await meta.worker.run_due_cycle(LINEAGE)
        report = (await meta.deps.status_store.reports(LINEAGE))[0]
        assert report.activated is not None, "the catalogue's candidate is none the worse"
        assert any(note.startswith("paper:") for note in report.notes)


async def test_a_new_request_is_tried_at_once_after_a_failure(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """What failed waits; an operator who has mended it and asks again does not."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, every_traces=100) as meta:
        await train(meta.client)
        await meta.deps.status_store.request(LINEAGE, "me", "now")
        fake_engine.stop()
        for _ in range(6):
            meta.worker._backoff[LINEAGE].failed(time.monotonic())
        with pytest.raises(ServiceUnavailableError):
            await meta.worker.run_due_cycle(LINEAGE)
        await meta.worker.run_due_cycle(LINEAGE)
        fake_engine.start()
        await meta.worker.run_due_cycle(LINEAGE)
        assert await meta.deps.status_store.reports(LINEAGE) == []

        async def is_back() -> bool:
            return (await meta.client.readiness())["judge"]

        await until(is_back, "the judge to be back in service")
        await meta.deps.status_store.request(LINEAGE, "me", "now")
        await meta.worker.run_due_cycle(LINEAGE)
        assert len(await meta.deps.status_store.reports(LINEAGE)) == 1
