"""A meta-judge that returns harm changes nothing; a person's improvements pass; one judge reads them both."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from regrade import RewardClient
from regrade.contracts import EventKind, LineageEvent, Override, Reason, Stage
from regrade.tasks import load_pack
from regrade.tasks.anchors import build_anchors
from services.meta_reward.clients.shadow import shadow_scorer
from services.meta_reward.gate.gate import Gate, GateLimits
from services.meta_reward.gate.lint import lint
from services.meta_reward.types import Candidate
from tests.meta_reward.gate.candidates import HARMS, IMPROVEMENTS, QUOTED, Harm
from tests.support.builders import LINEAGE, TASK, activate
from tests.support.fake_engine import FakeEngine, Reply
from tests.support.meta import Meta, meta_script, running_meta, train
from tests.support.reader import reading_judge

SEEN = f"We write of how {QUOTED}. It is old. It is slow and it is loved. "


def meta_judge_of(reply: Reply) -> Any:
    """The reading judge, beside a meta-judge that screens and analyses well and then answers harm."""
    return meta_script(reading_judge, lambda prompt: reply if '"criteria"' in prompt else None)


async def one_cycle(meta: Meta, step: int = 1) -> list[LineageEvent]:
    """Train a step, run the cycle that is due, and give the line's history."""
    await train(meta.client, SEEN, step=step)
    await meta.worker.run_due_cycle(LINEAGE)
    status = await meta.deps.status_store.status(LINEAGE)
    assert (status.stage, status.error, status.completed) == (Stage.IDLE, None, step), "the worker goes on"
    return await meta.deps.store.history(LINEAGE)


def test_the_table_holds_forty_kinds() -> None:
    assert len(HARMS) >= 40
    assert len({harm.name for harm in HARMS}) == len(HARMS)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
async def test_no_harm_becomes_active(redis: Redis, reward_url: str, fake_engine: FakeEngine, harm: Harm) -> None:
    """It is refused where the table says, with the reason on record."""
    fake_engine.script = meta_judge_of(harm.reply)
    async with running_meta(redis, reward_url, fake_engine, llm=True, catalogue=False, gate_originals=24) as meta:
        *_, last = await one_cycle(meta)
        active = await meta.deps.store.active(LINEAGE)
        assert active is not None
        assert active.version == 1
        at_the_gate = last.gate is not None
        assert last.kind in (EventKind.REJECTED, EventKind.FAILED)
        assert ("gate" if at_the_gate else last.by) == harm.stopped
        assert harm.reason in last.reason


async def test_the_worker_outlives_all_of_them(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """One worker meets every reply that is none, cycle after cycle, and then adopts what is good."""
    broken = [harm for harm in HARMS if harm.stopped == "paper"]
    async with running_meta(redis, reward_url, fake_engine, llm=True, gate_originals=24, longest_wait=1) as meta:
        proposers = meta.deps.proposers
        alone = meta.deps._replace(proposers=[p for p in proposers if p.name == "paper"])
        meta.worker._deps = alone
        for step, harm in enumerate(broken, 1):
            fake_engine.script = meta_judge_of(harm.reply)
            assert (await one_cycle(meta, step))[-1].kind is EventKind.FAILED
        meta.worker._deps = meta.deps
        history = await one_cycle(meta, len(broken) + 1)
        assert history[-1].kind is EventKind.ACTIVATED


async def test_improvements_pass(client: RewardClient, fake_engine: FakeEngine) -> None:
    """Each against the one-line rubric, through lint and gate, under the judge that read the harm."""
    fake_engine.script = meta_script(reading_judge)
    pack = load_pack(TASK)
    gate = Gate(shadow_scorer(client, 64), TASK, build_anchors(pack, 24), GateLimits(alpha=0.05, margin=0.05), [])
    refused: dict[str, Sequence[Reason]] = {}
    judged = 0
    for improvement in IMPROVEMENTS:
        candidate = Candidate(improvement.applied_to(pack.starting_rubric), "a person")
        reasons: Sequence[Reason] = lint(candidate.rubric, pack.starting_rubric, [SEEN], {}, pack.language)
        if not reasons:
            decision = await gate.decide(improvement.name, [candidate], pack.starting_rubric, None)
            reasons = decision.reports[0].reasons
        if reasons:
            refused[improvement.name] = reasons
        else:
            judged += improvement.is_judged
    assert len(IMPROVEMENTS) - len(refused) >= 8, refused
    assert judged >= 5, refused


async def test_under_strategy_paper_harm_becomes_active(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """Well-formed harm does, one after the other, each recorded as an override; what is no reply does not."""
    adopted: list[str] = []
    async with running_meta(
        redis, reward_url, fake_engine, llm=True, catalogue=False, strategy="paper", longest_wait=1
    ) as meta:
        start = await meta.deps.store.active(LINEAGE)
        assert start is not None
        one_line_rubric = await meta.deps.store.get(TASK, start.digest)
        for step, harm in enumerate(HARMS, 1):
            fake_engine.script = meta_judge_of(harm.reply)
            *_, last = await one_cycle(meta, step)
            if last.kind is EventKind.ACTIVATED:
                assert isinstance(last.authority, Override)
                assert last.authority.cycle == last.cycle
                assert "paper" in last.reason
                adopted.append(harm.name)
                await activate(meta.deps.store, one_line_rubric)
    assert adopted == [harm.name for harm in HARMS if harm.stopped != "paper"]
