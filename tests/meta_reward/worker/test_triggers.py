"""What calls for a cycle: traces, steps, an alarm; and what holds it back: a pause, cycles that bring nothing."""

from typing import Any

import pytest
from redis.asyncio import Redis

from regrade.contracts import Alarm, CycleStatus, Pause, Trace
from services.kit.store import keys
from services.meta_reward.evidence.sampling import SamplingPool, draw_sample
from services.meta_reward.evidence.text_features import extract_features
from services.meta_reward.evidence.window import is_evidence
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.worker.triggers import due_trigger
from tests.support.builders import ESSAY, LINEAGE, TASK, trace
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import POOR, meta_script, running_meta, train

SETTINGS = MetaRewardSettings(every_traces=100, every_steps=10, max_window=1_000, longest_wait=4)
PAUSED = Pause(by="me", reason="why", since=0.0)
ALARM = Alarm(name="words_fell", figure=0.4, threshold=0.3, lowered_at=0.2, since="10-2", traces=())


def waiting(count: int, steps: int = 1) -> list[Trace]:
    return [trace(str(n), step=n % steps) for n in range(count)]


@pytest.mark.parametrize(
    ("traces", "steps", "fruitless", "trigger"),
    [
        (99, 9, 0, None),
        (100, 9, 0, "100 new traces"),
        (10, 10, 0, "10 new steps"),
        (100, 10, 1, "100 new traces"),
        (199, 19, 2, None),
        (200, 1, 2, "200 new traces"),
        (40, 20, 2, "20 new steps"),
        (399, 39, 3, None),
        (400, 39, 30, "400 new traces"),
    ],
)
def test_counts_grow_with_cycles_that_bring_nothing(
    traces: int, steps: int, fruitless: int, trigger: str | None
) -> None:
    assert due_trigger(SETTINGS, CycleStatus(fruitless=fruitless), waiting(traces, steps), [], "0-0", 0.0) == trigger


def test_a_full_window_is_never_waited_beyond() -> None:
    narrow = SETTINGS.model_copy(update={"max_window": 150})
    assert due_trigger(narrow, CycleStatus(fruitless=9), waiting(150), [], "0-0", 0.0) == "150 new traces"


def test_steps_of_two_runs_are_two() -> None:
    both = [trace(str(n), step=n // 2, run=f"run-{n % 2}") for n in range(10)]
    assert due_trigger(SETTINGS, CycleStatus(), both, [], "0-0", 0.0) == "10 new steps"
    assert due_trigger(SETTINGS.model_copy(update={"every_steps": 0}), CycleStatus(), both, [], "0-0", 0.0) is None


def test_an_alarm_calls_once() -> None:
    status = CycleStatus()
    assert (
        due_trigger(SETTINGS, status, waiting(1), [ALARM], "10-1", 0.0) == "alarm: words_fell (0.40, raised above 0.30)"
    )
    assert due_trigger(SETTINGS, status, waiting(1), [ALARM], "9-99", 0.0) is not None, "ids are numbers, not text"
    assert due_trigger(SETTINGS, status, waiting(1), [ALARM], "10-2", 0.0) is None, (
        "a cycle has consumed what raised it"
    )
    assert due_trigger(SETTINGS, status, [], [ALARM], "10-1", 0.0) is None


def test_an_alarm_calls_less_often_behind_cycles_that_bring_nothing() -> None:
    rare = SETTINGS.model_copy(update={"every_traces": 1_000, "every_steps": 0, "alarm_traces": 8})
    for fruitless, traces in ((1, 8), (2, 16), (3, 32), (9, 32)):
        status = CycleStatus(fruitless=fruitless)
        assert due_trigger(rare, status, waiting(traces - 1), [ALARM], "10-1", 0.0) is None
        assert due_trigger(rare, status, waiting(traces), [ALARM], "10-1", 0.0) is not None


def test_a_pause_holds_all_of_it_back() -> None:
    assert due_trigger(SETTINGS, CycleStatus(paused=PAUSED), waiting(500, 50), [ALARM], "0-0", 0.0) is None


async def test_i8_an_alarm_is_raised_between_cycles_and_outlives_the_worker(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """One worker raises it and dies; another one runs the cycle that it calls for; it rings on and calls no more."""
    fake_engine.script = meta_script(lambda _: certain(3))
    patient: dict[str, Any] = {"every_traces": 1_000, "alarm_traces": 8}
    async with running_meta(redis, reward_url, fake_engine, **patient) as meta:
        await train(meta.client, step=1, count=8)
        meta.worker._backoff[LINEAGE].failed(1e12)
        await meta.worker.run_due_cycle(LINEAGE)
        raised = {alarm.name for alarm in await meta.deps.status_store.alarms(LINEAGE)}
        assert "groups_without_spread" in raised
        assert await meta.deps.status_store.reports(LINEAGE) == []
    async with running_meta(redis, reward_url, fake_engine, **patient) as meta:
        await meta.worker.run_due_cycle(LINEAGE)
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.trigger.startswith("alarm: groups_without_spread")
        assert {alarm.name for alarm in report.evidence.alarms} >= {"groups_without_spread"}
        for step in (2, 3):
            await train(meta.client, step=step)
            await meta.worker.run_due_cycle(LINEAGE)
        assert "groups_without_spread" in {alarm.name for alarm in await meta.deps.status_store.alarms(LINEAGE)}
        assert len(await meta.deps.status_store.reports(LINEAGE)) == 1


async def test_alarms_see_the_newest_traces_however_many_wait(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """A paused lineage: far more traces are pending than a window holds, and alarms still see the newest ones."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, max_window=16, alarm_traces=8) as meta:
        await meta.deps.status_store.pause(LINEAGE, PAUSED)
        for step in (1, 2):
            await train(meta.client, ESSAY, step=step)
        await meta.worker.run_due_cycle(LINEAGE)
        assert "words_fell" not in {alarm.name for alarm in await meta.deps.status_store.alarms(LINEAGE)}
        for step in (3, 4, 5):
            await train(meta.client, "A title", step=step)
            await meta.worker.run_due_cycle(LINEAGE)
        assert "words_fell" in {alarm.name for alarm in await meta.deps.status_store.alarms(LINEAGE)}
        assert (await meta.deps.status_store.status(LINEAGE)).lag == 40
        await meta.deps.status_store.pause(LINEAGE, None)
        await meta.worker.run_due_cycle(LINEAGE)
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.evidence.traces == 16, "a cycle takes the oldest first, so none is skipped"


async def test_fruitless_cycles_are_counted_until_one_bears_fruit(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        idle = meta.deps._replace(proposers=[])
        with_none = type(meta.worker)(idle, meta.leases, meta.worker._metrics)
        for step, fruitless in ((1, 1), (2, 2), (3, 2), (4, 3)):
            await train(meta.client, step=step)
            await with_none.run_due_cycle(LINEAGE)
            assert (await meta.deps.status_store.status(LINEAGE)).fruitless == fruitless
        await meta.deps.status_store.request(LINEAGE, "me", "now")
        await train(meta.client, POOR, step=5)
        await meta.worker.run_due_cycle(LINEAGE)
        assert (await meta.deps.status_store.status(LINEAGE)).fruitless == 0
        assert await redis.exists(keys.checkpoint_key(LINEAGE)) == 0


async def test_a_sample_is_drawn_again_from_what_the_report_says(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    """From window, count, weights and seed of the stored report, with what the stream still holds."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, samples=5) as meta:
        await train(meta.client, step=1, count=24)
        await meta.worker.run_due_cycle(LINEAGE)
        await train(meta.client, step=2, count=24)
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.sample is not None
        assert len({name for pick in report.sample.picks for name in pick.traces}) == 5
        after, end = report.evidence.window
        window = await meta.deps.log.read(LINEAGE, after, 1_000, is_evidence, until=end)
        assert len(window.traces) == 24
        pool = SamplingPool(window.traces, extract_features(window.traces))
        assert draw_sample(pool, report.sample.count, report.sample.weights, report.sample.seed) == report.sample
        assert report.sample.seed == f"{TASK}/main/{report.cycle}"


def test_a_task_packs_schedule_counts_where_it_is_asked_for() -> None:
    """The essay's pack says ten steps; an interval of the service's own goes over it."""
    settings = MetaRewardSettings(every_traces=1_000, alarm_traces=0)
    nine, ten = ([trace(str(n), step=n) for n in range(count)] for count in (9, 10))
    assert due_trigger(settings, CycleStatus(), ten, [], "0-0", 0.0) is None
    by_pack = settings.model_copy(update={"pack_schedule": True})
    assert due_trigger(by_pack, CycleStatus(), nine, [], "0-0", 0.0) is None
    assert due_trigger(by_pack, CycleStatus(), ten, [], "0-0", 0.0) == "10 new steps"
    assert due_trigger(by_pack.model_copy(update={"every_steps": 20}), CycleStatus(), ten, [], "0-0", 0.0) is None


def test_a_few_traces_do_not_wait_for_good() -> None:
    """A run ends with fewer than start a cycle: they hold back what the archive may trim until one takes them up."""
    few = [trace("a", time=1_000.0), trace("b", time=80_000.0)]
    assert due_trigger(SETTINGS, CycleStatus(fruitless=9), few, [], "0-0", 87_399.0) is None
    assert due_trigger(SETTINGS, CycleStatus(fruitless=9), few, [], "0-0", 87_400.0) == "a trace has waited for 24 h"
    assert due_trigger(SETTINGS.model_copy(update={"every_s": 0.0}), CycleStatus(), few, [], "0-0", 1e9) is None
    assert due_trigger(SETTINGS, CycleStatus(paused=PAUSED), few, [], "0-0", 1e9) is None
