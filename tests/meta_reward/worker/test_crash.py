"""A worker is killed at each stage of a cycle: the next one finishes what it began, or abandons it with a reason."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from regrade.contracts import CycleReport, EventKind, GatePass
from services.kit.store import keys
from services.meta_reward.evidence.window import is_evidence
from tests.support.builders import LINEAGE, activate, llm, rubric
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain
from tests.support.meta import POOR, Meta, meta_script, running_meta, train
from tests.support.redis_proxy import When, halting
from tests.support.servers import Process, spawn_service
from tests.support.valkey import Valkey
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.slow

SpawnMeta = Callable[..., Process]
NARROW: dict[str, Any] = {"every_traces": 16, "samples": 3}

STAGES = ["evidence", "sample", "propose", "lint", "gate", "activate"]
HALTS: list[tuple[str, When]] = [
    ('"done":null', "before"),
    *[(f'"done":"{stage}"', "before") for stage in STAGES],
    ('"done":"gate"', "behind"),
    ('"kind":"activated"', "before"),
    ('"kind":"activated"', "behind"),
    ('"finished":', "before"),
    ('"finished":', "behind"),
]
PROMPT_MARKS = {
    "prescreen": '"verdict"',
    "analyse": '"inflated"',
    "refine": "Write one to three",
    "merge": "Merge the proposals",
}


@pytest.fixture
def spawn_meta(redis_url: str, reward_url: str, fake_engine: FakeEngine, tmp_path: Path) -> Iterator[SpawnMeta]:
    """Starts the meta-reward service as a process, which looks at once and holds its lease for a second."""
    running: list[Process] = []
    defaults: dict[str, Any] = {
        "redis_url": redis_url,
        "reward_url": reward_url,
        "meta_judge_url": fake_engine.url,
        "poll_s": 0.05,
        "gate_originals": 12,
        "lease_ttl_s": 1.0,
        "meta_judge_model": "fake",
        "meta_judge_max_tokens": 256,
    }

    def start(**settings: Any) -> Process:
        running.append(
            spawn_service("services.meta_reward", "REGRADE_META_", tmp_path, **(defaults | NARROW | settings))
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()


async def taken_over(meta: Meta) -> CycleReport:
    """The report of the first cycle that a second worker brings to its end, once the first one's lease is over."""

    async def ended() -> bool:
        await meta.worker.run_due_cycle(LINEAGE)
        return bool(await meta.deps.status_store.reports(LINEAGE))

    await until(ended, "the second worker to end the cycle")
    return (await meta.deps.status_store.reports(LINEAGE))[0]


async def consistent(meta: Meta, redis: Redis, traces: int) -> None:
    """No lost or doubly counted trace, no double activation, each event once, nothing in progress."""
    reports = await meta.deps.status_store.reports(LINEAGE)
    finished = [report for report in reports if report.abandoned is None]
    position = "0-0"
    for report in finished:
        assert report.evidence.window[0] == position
        position = report.evidence.window[1]
    assert sum(report.evidence.traces for report in finished) == traces
    assert len((await meta.deps.log.read(LINEAGE, "0-0", 1_000, is_evidence)).traces) == traces
    assert await meta.deps.log.cursor(LINEAGE) == position
    assert len({report.cycle for report in reports}) == len(reports)
    history = await meta.deps.store.history(LINEAGE)
    gated = [e for e in history if e.kind is EventKind.ACTIVATED and isinstance(e.authority, GatePass)]
    assert [event.cycle for event in gated] == [report.cycle for report in finished if report.activated]
    verdicts = Counter((e.cycle, e.kind, e.digest) for e in history if e.cycle is not None)
    assert set(verdicts.values()) <= {1}, "every verdict is on record once"
    versions = await meta.deps.store.versions(LINEAGE)
    assert list(versions) == list(range(1, len(versions) + 1))
    assert await redis.exists(keys.checkpoint_key(LINEAGE)) == 0


@pytest.mark.parametrize(("pattern", "when"), HALTS, ids=lambda value: value.strip('":').replace('":"', "-"))
async def test_a_worker_killed_at_a_checkpoint(
    redis: Redis,
    valkey: Valkey,
    reward_url: str,
    fake_engine: FakeEngine,
    spawn_meta: SpawnMeta,
    pattern: str,
    when: When,
) -> None:
    """SIGKILL just before or just behind each write of a cycle."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, llm=True, **NARROW) as meta:
        await train(meta.client, step=1, count=16)
        with halting(valkey.port, pattern, when) as proxy:
            first = spawn_meta(redis_url=proxy.url)
            proxy.wait()
            first.kill()
        began = await redis.get(keys.checkpoint_key(LINEAGE))
        questions = _questions(fake_engine)
        report = await taken_over(meta)
        assert report.abandoned is None
        assert report.activated is not None
        if began is not None:
            assert report.cycle == json.loads(began)["cycle"], "it is the same cycle that goes on"
            assert report.resumed == 1
        if began is not None and json.loads(began)["done"] not in (None, "evidence"):
            assert _questions(fake_engine) == questions, "what the meta-judge has answered is not asked again"
        await train(meta.client, POOR, step=2, count=8)
        await meta.deps.status_store.request(LINEAGE, "me", "once more")

        async def once_more() -> bool:
            await meta.worker.run_due_cycle(LINEAGE)
            return await meta.deps.status_store.requested(LINEAGE) is None

        await until(once_more, "another cycle")
        await consistent(meta, redis, 24)


def _questions(engine: FakeEngine) -> Counter[str]:
    return Counter(messages[0]["content"] for messages in engine.calls if len(messages) == 1)


@pytest.mark.parametrize("step", list(PROMPT_MARKS))
async def test_a_worker_killed_while_its_meta_judge_thinks(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, spawn_meta: SpawnMeta, step: str
) -> None:
    """SIGKILL in the middle of a question: what was answered before is not asked again."""
    reached = threading.Event()
    hanging: list[str] = []

    def replies(prompt: str) -> Reply | None:
        if PROMPT_MARKS[step] in prompt and not reached.is_set() and (step != "analyse" or hanging or _second(prompt)):
            hanging.append(prompt)
            reached.set()
            return Reply(hang=True)
        return None

    analyses = Counter[str]()

    def _second(prompt: str) -> bool:
        """Two analyses are answered before the third one hangs."""
        analyses[PROMPT_MARKS[step]] += 1
        return analyses[PROMPT_MARKS[step]] > 2

    fake_engine.script = meta_script(lambda _: certain(3), replies)
    async with running_meta(redis, reward_url, fake_engine, llm=True, **NARROW) as meta:
        await train(meta.client, step=1, count=16)
        first = spawn_meta(meta_judge_in_flight=1)
        wait_until(reached.is_set, f"the meta-judge to be asked to {step}")
        first.kill()
        answered = set(_questions(fake_engine)) - set(hanging)
        fake_engine.forget()
        report = await taken_over(meta)
        assert (report.abandoned, report.resumed) == (None, 1)
        assert report.activated is not None
        questions = set(_questions(fake_engine))
        assert answered or step == "prescreen"
        assert questions >= set(hanging)
        assert not questions & answered
        await consistent(meta, redis, 16)


async def test_a_worker_killed_at_its_gate(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, spawn_meta: SpawnMeta
) -> None:
    """SIGKILL while a candidate is shadow-scored: the next worker measures, and proposes nothing anew."""
    reached = threading.Event()

    def judge(messages: Messages) -> Reply:
        if "Concrete support" in messages[0]["content"] and not reached.is_set():
            reached.set()
            fake_engine.hold()
        return certain(3)

    fake_engine.script = meta_script(judge)
    async with running_meta(redis, reward_url, fake_engine, llm=True, **NARROW) as meta:
        await train(meta.client, step=1, count=16)
        first = spawn_meta()
        wait_until(reached.is_set, "the gate")
        first.kill()
        fake_engine.release()
        questions = _questions(fake_engine)
        report = await taken_over(meta)
        assert (report.abandoned, report.resumed) == (None, 1)
        assert _questions(fake_engine) == questions
        await consistent(meta, redis, 16)


async def test_i6_a_worker_that_wakes_up_behind_its_lease_changes_nothing(
    redis: Redis, valkey: Valkey, reward_url: str, fake_engine: FakeEngine, spawn_meta: SpawnMeta
) -> None:
    """Its activation is on the way when another worker takes the cycle over and ends it; then it arrives."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, llm=True, **NARROW) as meta:
        await train(meta.client, step=1, count=16)
        with halting(valkey.port, '"kind":"activated"', "before") as proxy:
            spawn_meta(redis_url=proxy.url, every_traces=10_000, max_window=16)
            await meta.deps.status_store.request(LINEAGE, "me", "now")
            proxy.wait()
            await redis.delete(keys.lease_key(LINEAGE))
            report = await taken_over(meta)
            lineage = await redis.xlen(keys.lineage_events_key(LINEAGE))
            proxy.release()

            async def is_refused() -> bool:
                return "fenced" in ((await meta.deps.status_store.status(LINEAGE)).error or "") or "lease" in (
                    (await meta.deps.status_store.status(LINEAGE)).error or ""
                )

            await until(is_refused, "the first worker to be refused")
        assert (report.abandoned, report.resumed) == (None, 1)
        assert await redis.xlen(keys.lineage_events_key(LINEAGE)) == lineage
        await consistent(meta, redis, 16)


async def test_i6_an_operators_choice_is_not_taken_back_by_the_cycle_before_it(
    redis: Redis, valkey: Valkey, reward_url: str, fake_engine: FakeEngine, spawn_meta: SpawnMeta
) -> None:
    """The worker dies just behind its activation, an operator goes back by override: the next worker only reports."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, **NARROW) as meta:
        old = await meta.deps.store.active(LINEAGE)
        assert old is not None
        await train(meta.client, step=1, count=16)
        with halting(valkey.port, '"kind":"activated"', "behind") as proxy:
            first = spawn_meta(redis_url=proxy.url, llm_proposer=False)
            proxy.wait()
            first.kill()
        pointer = await meta.deps.store.active(LINEAGE)
        await activate(meta.deps.store, await meta.deps.store.get(LINEAGE.task, old.digest))
        report = await taken_over(meta)
        assert pointer is not None
        assert (report.abandoned, report.activated) == (None, pointer.digest)
        assert await meta.deps.store.active(LINEAGE) == old
        await consistent(meta, redis, 16)


async def test_a_cycle_about_another_rubric_is_abandoned(
    redis: Redis, valkey: Valkey, reward_url: str, fake_engine: FakeEngine, spawn_meta: SpawnMeta
) -> None:
    """An operator activates a rubric of his own before the next worker comes: it says so, and begins anew."""
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, **NARROW) as meta:
        await train(meta.client, step=1, count=16)
        with halting(valkey.port, '"done":"gate"', "behind") as proxy:
            first = spawn_meta(redis_url=proxy.url, llm_proposer=False)
            proxy.wait()
            first.kill()
        await activate(meta.deps.store, rubric(llm("own")))
        report = await taken_over(meta)
        assert (report.abandoned, report.activated) == ("another rubric has been activated", None)
        reports = await meta.deps.status_store.reports(LINEAGE)
        assert [r.abandoned is None for r in reports] == [False, True]
        assert reports[1].trigger == reports[0].trigger == "16 new traces"
        assert reports[1].evidence.window == reports[0].evidence.window, "its traces are the next one's"
        await consistent(meta, redis, 16)
