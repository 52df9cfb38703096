"""The audit: what is sent to the audit judge, what follows from its scores, and what a failure costs."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from regrade.contracts import Audited, EventKind, GatePass
from regrade.errors import RequestError
from services.kit.asyncio_utils import cancel_and_wait
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import read_entries
from services.kit.store.rubric_store import gate_event
from services.meta_reward.evidence.alarms import AUDIT_CONTRADICTS, update_alarms
from services.meta_reward.evidence.audit import audit_figures, change_by_activation, change_since_activation
from services.meta_reward.evidence.window import summarise_window
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.monitoring import auditor as auditor_module
from services.meta_reward.monitoring.auditor import Auditor
from services.meta_reward.monitoring.rollback import audit_contradiction_reason
from services.meta_reward.stores.audits import AuditStore
from tests.conftest import StartReward
from tests.support.builders import ESSAY, LINEAGE, TASK, gate_report, llm, rubric, trace
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain
from tests.support.meta import Meta, meta_script, running_meta, train
from tests.support.servers import spawn_service
from tests.support.valkey import running_valkey
from tests.support.waiting import until, wait_until

OLD, NEW = "a" * 64, "b" * 64
WINDOW = 16
PATIENT = 1_000


def audits(
    start: int, digest: str, rewards: Sequence[float], scores: Sequence[float | None]
) -> list[tuple[str, Audited]]:
    """Audited traces from a place in the stream on."""
    return [
        (f"{start + n}-0", Audited(trace_id=f"t{start + n}", digest=digest, reward=reward, audit=score))
        for n, (reward, score) in enumerate(zip(rewards, scores, strict=True))
    ]


def steady(start: int, digest: str, reward: float, score: float, count: int = WINDOW) -> list[tuple[str, Audited]]:
    """Around these means, with some scatter."""
    off = [0.05 * (-1) ** n for n in range(count)]
    return audits(start, digest, [reward + o for o in off], [score - o for o in off])


def test_reward_up_and_audit_down_is_an_alarm_that_names_its_traces() -> None:
    audited = [*steady(1, NEW, 0.5, 0.6), *steady(100, NEW, 0.8, 0.3)]
    change = change_since_activation(audited, NEW, WINDOW)
    assert change is not None
    assert change.contradiction > 0.2
    (alarm,) = [
        a
        for a in update_alarms(summarise_window([trace()], {}, audit=change), [], "9-0")
        if a.name == AUDIT_CONTRADICTS
    ]
    assert set(alarm.traces) <= {one.trace_id for _, one in audited[WINDOW:]}
    calm = change_since_activation([*audited[:WINDOW], *steady(100, NEW, 0.8, 0.7)], NEW, WINDOW)
    assert calm is not None
    lowered = update_alarms(summarise_window([trace()], {}, audit=calm), [alarm], "10-0")
    assert AUDIT_CONTRADICTS not in {a.name for a in lowered}
    unknown = update_alarms(summarise_window([trace()], {}), [alarm], "10-0")
    assert AUDIT_CONTRADICTS in {a.name for a in unknown}, "an unknown figure keeps its alarm"


def test_either_alone_is_none() -> None:
    before = steady(1, NEW, 0.5, 0.6)
    for reward, score in ((0.8, 0.6), (0.5, 0.3), (0.8, 0.9), (0.3, 0.3)):
        change = change_since_activation([*before, *steady(100, NEW, reward, score)], NEW, WINDOW)
        assert change is not None
        assert change.contradiction <= 0.0
        assert audit_contradiction_reason(change) is None


def test_a_judge_failure_counts_for_nothing() -> None:
    failed = audits(50, NEW, [0.9] * WINDOW, [None] * WINDOW)
    assert change_since_activation([*steady(1, NEW, 0.5, 0.6), *failed], NEW, WINDOW) is None
    figures = audit_figures(failed, ("0-0", "99-0"), NEW, WINDOW)
    assert (figures.traces, figures.audit_mean, figures.audit_fall) == (0, None, None)


def test_an_activation_is_judged_by_what_follows_it() -> None:
    before, climbed = steady(1, OLD, 0.5, 0.6), steady(100, NEW, 0.8, 0.3)
    change = change_by_activation([*before, *climbed], OLD, NEW, "50-0", WINDOW)
    assert change is not None
    assert "audit contradicts" in (audit_contradiction_reason(change) or "")
    assert change_by_activation([*before, *climbed[:-1]], OLD, NEW, "50-0", WINDOW) is None
    stricter = [*steady(100, NEW, 0.2, 0.6, 8), *steady(108, NEW, 0.45, 0.3, 8)]
    change = change_by_activation([*before, *stricter], OLD, NEW, "50-0", WINDOW)
    assert change is not None
    assert audit_contradiction_reason(change), "it climbs from the level that the stricter rubric has brought it to"


def contradicting(messages: Messages) -> Reply:
    """What pleases the training rubrics is what the fixed rubric of the audit finds poor."""
    better = "second" in messages[1]["content"]
    audited = "Audit" in messages[0]["content"]
    return certain(5 if better != audited else 1)


def auditor_of(meta: Meta, redis: Redis, registry: CollectorRegistry | None = None) -> Auditor:
    metrics = MetaRewardMetrics(registry or CollectorRegistry())
    return Auditor(meta.deps, AuditStore(redis), meta.client, meta.leases, metrics)


async def test_the_watch_rolls_back_what_the_audit_contradicts(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fixed, wanted = rubric(llm("audit")), rubric(llm("wanted"))
    fake_engine.script = meta_script(contradicting)
    overrides: dict[str, Any] = {"audit_share": 1.0, "audit_window": 8, "every_traces": PATIENT}
    overrides["audit_rubrics"] = {TASK: fixed.digest}
    async with running_meta(redis, reward_url, fake_engine, **overrides) as meta:
        worker = meta.worker
        worker._deps = meta.deps._replace(audits=AuditStore(redis))
        await meta.deps.store.put(TASK, fixed)
        auditor = auditor_of(meta, redis)
        await train(meta.client, "A first try at the essay. ", step=1)
        await auditor.audit_new_traces(LINEAGE)
        before = await meta.deps.store.active(LINEAGE)
        assert before is not None
        await meta.deps.store.put(TASK, wanted)
        await meta.deps.store.record(LINEAGE, gate_event(gate_report(wanted.digest, before.digest)))
        await meta.deps.store.activate(LINEAGE, wanted.digest, expected=before.digest, authority=GatePass(cycle="c"))
        await train(meta.client, "A second try at the essay. ", step=2)
        await worker.watch(LINEAGE)
        assert (await meta.deps.store.active(LINEAGE)) != before, "the audit has not spoken yet"
        await auditor.audit_new_traces(LINEAGE)
        await worker.watch(LINEAGE)
        assert (await meta.deps.store.active(LINEAGE)) == before
        last = (await meta.deps.store.history(LINEAGE))[-1]
        assert (last.kind, last.by) == (EventKind.ROLLED_BACK, "watch")
        assert last.reason.startswith("audit contradicts")
        assert await redis.exists(keys.rollback_cooldown_key(LINEAGE))


async def test_i8_each_trace_is_audited_once_whoever_audits(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor_module, "MAX_BATCH", 64)
    fake_engine.script = meta_script(lambda _: certain(3))
    registry = CollectorRegistry()
    overrides: dict[str, Any] = {"audit_share": 0.5, "every_traces": PATIENT}
    async with running_meta(redis, reward_url, fake_engine, **overrides) as meta:
        for step in range(4):
            await train(meta.client, step=step)
        await auditor_of(meta, redis, registry).audit_new_traces(LINEAGE)
        first = await AuditStore(redis).read(LINEAGE)
        assert 6 <= len(first) <= 26
        await auditor_of(meta, redis).audit_new_traces(LINEAGE)
        assert await AuditStore(redis).read(LINEAGE) == first
        await redis.delete(keys.audit_cursor_key(LINEAGE))
        await auditor_of(meta, redis).audit_new_traces(LINEAGE)
        assert await AuditStore(redis).read(LINEAGE) == first, "the same lots, and none entered twice"
        assert len(await read_entries(redis, keys.traces_key(TASK))) == 32, "an audit leaves no trace"
        text = generate_latest(registry).decode()
        assert f'regrade_meta_audited_traces_total{{outcome="scored",task="essay_writing"}} {len(first)}.0' in text
        assert f'regrade_meta_audit_share_ratio{{task="essay_writing"}} {len(first) / 32}' in text


async def test_a_poll_audits_no_more_than_its_batch(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor_module, "MAX_BATCH", 4)
    fake_engine.script = meta_script(lambda _: certain(3))
    overrides: dict[str, Any] = {"audit_share": 1.0, "every_traces": PATIENT}
    async with running_meta(redis, reward_url, fake_engine, **overrides) as meta:
        await train(meta.client, count=8)
        await auditor_of(meta, redis).audit_new_traces(LINEAGE)
        audited = await AuditStore(redis).read(LINEAGE)
        assert len(audited) == 4
        newest = [entry_id for entry_id, _ in await read_entries(redis, keys.traces_key(TASK))][-4:]
        assert [entry_id for entry_id, _ in audited] == newest


async def test_a_cycles_evidence_and_sample_know_the_audit(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = meta_script(contradicting)
    fixed = rubric(llm("audit"))
    overrides: dict[str, Any] = {"audit_share": 1.0, "audit_rubrics": {TASK: fixed.digest}}
    async with running_meta(redis, reward_url, fake_engine, **overrides) as meta:
        meta.worker._deps = meta.deps._replace(audits=AuditStore(redis))
        await meta.deps.store.put(TASK, fixed)
        await train(meta.client, "A second try at the essay. ", step=1)
        await auditor_of(meta, redis).audit_new_traces(LINEAGE)
        await meta.worker.run_due_cycle(LINEAGE)
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.evidence.audit is not None
        assert report.evidence.audit.traces == 8
        assert report.evidence.audit.reward_mean == 1.0
        assert report.evidence.audit.audit_mean == 0.2


@pytest.mark.slow
def test_an_audit_service_of_its_own_keeps_its_own_books(
    redis_url: str, start_reward: StartReward, fake_engine: FakeEngine, tmp_path: Path
) -> None:
    """Another judge behind another reward service, with its own Redis and key: what it says reaches the evidence."""
    with running_valkey() as other_valkey, closing(FakeEngine()) as other_judge, ExitStack() as running:
        fake_engine.script = meta_script(lambda _: certain(5))
        other_judge.script = lambda _: certain(1)
        trains = start_reward(bootstrap_tasks=[TASK]).url
        own = {"redis_url": other_valkey.url, "judge_url": other_judge.url, "bootstrap_tasks": [TASK]}
        audits = start_reward(**own, api_keys=["key-of-the-auditor"]).url
        meta = spawn_service(
            "services.meta_reward", "REGRADE_META_", tmp_path, redis_url=redis_url, reward_url=trains, poll_s=0.05,
            audit_url=audits, audit_key="key-of-the-auditor", audit_share=1.0, llm_proposer=False, every_traces=PATIENT,
            request_traces=8, alarm_traces=0, gate_originals=8,
        )  # fmt: skip
        running.callback(meta.stop)
        items = [{"id": f"i{n}", "prompt": "Why trees?", "completion": f"{ESSAY} {n}"} for n in range(8)]
        body = {"task": TASK, "run": "r", "step": 1, "items": items}
        trained = httpx.post(f"{trains}/score", json=body, timeout=60.0).raise_for_status().json()["results"]
        scored = f'regrade_meta_audited_traces_total{{outcome="scored",task="{TASK}"}} 8.0'
        wait_until(lambda: scored in httpx.get(f"{meta.url}/metrics").text, "every trace to be audited")
        httpx.post(f"{meta.url}/cycles/{TASK}", json={"by": "dana", "reason": "a test"}).raise_for_status()
        wait_until(lambda: httpx.get(f"{meta.url}/cycles/{TASK}").json(), "a cycle")
        audit = httpx.get(f"{meta.url}/cycles/{TASK}").json()[0]["evidence"]["audit"]
        assert audit["traces"] == 8
        assert audit["reward_mean"] == pytest.approx(trained[0]["reward"])
        assert audit["audit_mean"] == pytest.approx(0.2)
        with BlockingRedis.from_url(other_valkey.url) as other_redis:
            assert not other_redis.exists(keys.traces_key(TASK)), "an audit leaves no trace there either"


async def test_an_audit_that_fails_waits_ever_longer(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An auditor that does not know the task is retried after a second, not at every poll."""
    fake_engine.script = meta_script(lambda _: certain(3))
    tries: list[float] = []
    async with running_meta(redis, reward_url, fake_engine, poll_s=0.01, every_traces=PATIENT) as meta:
        auditor = auditor_of(meta, redis)

        async def fail(lineage: LineageKey) -> None:
            tries.append(time.monotonic())
            raise RequestError("unknown_task", "nobody knows it")

        monkeypatch.setattr(auditor, "audit_new_traces", fail)
        auditing = asyncio.create_task(meta.worker.keep_auditing(auditor))
        await until(lambda: len(tries) == 3, "the third try")
        await cancel_and_wait(auditing)
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(tries))
