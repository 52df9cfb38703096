"""Metrics of a cycle: outcomes and reasons from closed sets, stages, lag over all lines."""

from prometheus_client import CollectorRegistry, generate_latest
from redis.asyncio import Redis

from regrade.contracts import EventKind, GateReport, Reason, ReasonCode
from services.kit.store.rubric_store import candidate_event, gate_event, refusal_event
from services.meta_reward.gate.reasons import count_outcomes
from services.meta_reward.metrics import MetaRewardMetrics
from tests.support.builders import LINEAGE, gate_report
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import meta_script, running_meta, train

ONE, TWO = "1" * 64, "2" * 64
LEAK = Reason(code=ReasonCode.LEAK, text="leak: quotes sampled text")


def test_only_the_cycles_own_outcomes_count_and_proposals_do_not() -> None:
    history = [
        candidate_event(EventKind.PROPOSED, ONE, by="me", reason="why", cycle="c"),
        refusal_event(ONE, [LEAK, Reason(code=ReasonCode.SIZE, text="size: 99 criteria")], by="lint", cycle="c"),
        refusal_event(TWO, [LEAK], by="lint", cycle="other"),
        candidate_event(EventKind.FAILED, ONE, by="paper", reason="no refinement", cycle="c"),
        gate_event(gate_report(TWO, ONE, cycle="c")),
    ]
    assert count_outcomes(history, "c") == {("rejected", "leak"): 1, ("failed", "other"): 1, ("gated", "passed"): 1}


def test_a_report_of_an_earlier_release_holds_plain_reasons() -> None:
    """And one of a later release may hold codes that this one does not know."""
    report = gate_report(ONE, TWO).model_dump(mode="json")
    old = GateReport.model_validate(report | {"reasons": ["leak: quotes sampled text"]})
    assert old.reasons == (Reason(code=ReasonCode.OTHER, text="leak: quotes sampled text"),)
    new = GateReport.model_validate(report | {"reasons": [{"code": "unheard_of", "text": "why"}]})
    assert new.reasons == (Reason(code=ReasonCode.OTHER, text="why"),)
    assert GateReport.model_validate_json(new.model_dump_json()) == new


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
    codes = [code for event in history if event.kind is EventKind.REJECTED for code in event.codes or ("none",)]
    assert ReasonCode.OTHER not in codes
    assert "none" not in codes
    passed = sum(event.kind is EventKind.GATED for event in history)
    text = generate_latest(registry).decode()
    labels = 'outcome="gated",reason="passed",task="essay_writing"'
    assert f"regrade_meta_verdicts_total{{{labels}}} {passed}.0" in text
    for stage in ("evidence", "sample", "propose", "lint", "gate", "activate"):
        assert f'regrade_meta_stage_seconds_count{{stage="{stage}",task="essay_writing"}} 1.0' in text
