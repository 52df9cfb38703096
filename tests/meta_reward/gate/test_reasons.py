"""What Prometheus is told of a cycle: outcomes and reasons from closed sets, stages, lag over all lines."""

from prometheus_client import CollectorRegistry, generate_latest
from redis.asyncio import Redis

from regrade.contracts import EventKind
from services.kit.store.rubric_store import candidate_event, gate_event
from services.meta_reward.gate.reasons import OTHER, count_outcomes, reason_code
from services.meta_reward.metrics import MetaRewardMetrics
from tests.support.builders import LINEAGE, gate_report
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import meta_script, running_meta, train

ONE, TWO = "1" * 64, "2" * 64


def test_only_its_own_verdicts_count_and_proposals_are_none() -> None:
    history = [
        candidate_event(EventKind.PROPOSED, ONE, by="me", reason="why", cycle="c"),
        candidate_event(EventKind.REJECTED, ONE, by="lint", reason="leak: quotes sampled text", cycle="c"),
        candidate_event(EventKind.REJECTED, TWO, by="lint", reason="leak: quotes sampled text", cycle="other"),
        candidate_event(EventKind.FAILED, ONE, by="paper", reason="no refinement", cycle="c"),
        gate_event(gate_report(TWO, ONE, cycle="c")),
    ]
    assert count_outcomes(history, "c") == {("rejected", "leak"): 1, ("failed", OTHER): 1, ("gated", "passed"): 1}


def test_every_refusal_of_a_real_cycle_has_a_kind() -> None:
    told = {
        "rolled back: too strict": "rolled_back",
        "dropped early: no gain on a third of the originals": "no_gain",
        "could not score 3 of 40 anchors": "unscored",
        "prefers damaged text: 60% of 'padded' twins": "inversion",
        "something nobody has thought of": OTHER,
    }
    assert {reason: reason_code(reason) for reason in told} == told


def test_the_lag_of_a_task_is_that_of_all_its_lines() -> None:
    registry = CollectorRegistry()
    metrics = MetaRewardMetrics(registry)
    metrics.lag(LINEAGE, 3)
    metrics.lag(LINEAGE._replace(scope="a"), 4)
    metrics.lag(LINEAGE, 5)
    assert registry.get_sample_value("regrade_meta_reward_lag_traces", {"task": LINEAGE.task}) == 9.0


async def test_a_cycle_is_counted(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    registry = CollectorRegistry()
    async with running_meta(redis, reward_url, fake_engine) as meta:
        meta.worker._metrics = MetaRewardMetrics(registry)
        await train(meta.client, step=1)
        await meta.worker.run_due_cycle(LINEAGE)
        history = await meta.deps.store.history(LINEAGE)
    reasons = [event.reason for event in history if event.kind is EventKind.REJECTED]
    assert all(reason_code(reason) != OTHER for reason in reasons)
    passed = sum(event.kind is EventKind.GATED for event in history)
    text = generate_latest(registry).decode()
    about = 'outcome="gated",reason="passed",task="essay_writing"'
    assert f"regrade_meta_verdicts_total{{{about}}} {passed}.0" in text
    for stage in ("evidence", "sample", "propose", "lint", "gate", "activate"):
        assert f'regrade_meta_stage_seconds_count{{stage="{stage}",task="essay_writing"}} 1.0' in text
