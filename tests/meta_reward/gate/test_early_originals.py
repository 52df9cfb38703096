"""Anchors grow by themselves: what early completions are taken up, when, and that no new error level comes of it."""

import random

import pytest
from redis.asyncio import Redis

from regrade.contracts import Flag, Trace
from regrade.tasks import load_pack
from regrade.tasks.anchors import build_anchors, is_held_out, is_substantially_changed
from services.kit.store.rubric_store import gate_event
from services.meta_reward.gate.alpha_spending import count_decisions
from services.meta_reward.gate.early_originals import missing_originals, select_early
from tests.support.builders import ESSAY, LINEAGE, TASK, gate_report, trace
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import meta_script, running_meta

PACK = load_pack(TASK)
ANCHORS = build_anchors(PACK, 12)


def written(number: int, text: str = "", **more: object) -> Trace:
    """An early completion of its own, for a prompt of its own."""
    rng = random.Random(number)
    sentences = ESSAY.split(". ")
    own = ". ".join(f"{s} {rng.random():.6f} {rng.random():.6f} {rng.random():.6f}" for s in sentences)
    return trace(f"e{number}", prompt=f"Question {number}?", completion=text or f"{own}.", **more)


TRUSTED = [t for t in map(written, range(40)) if is_held_out(t.trace_id)]


def test_the_gate_asks_for_more_before_the_level_is_spent() -> None:
    assert missing_originals(ANCHORS, 0.2, 1, 8) == 0
    wanted = [missing_originals(ANCHORS, 0.05, decision, 8) for decision in (1, 4, 16, 64)]
    assert wanted == sorted(wanted)
    assert 0 < wanted[0] < wanted[-1] < 24


def test_trusted_completions_are_taken_up_one_for_a_prompt() -> None:
    again = [t.model_copy(update={"trace_id": f"{t.trace_id}x"}) for t in TRUSTED]
    selected = select_early([*TRUSTED, *again], ANCHORS, 8)
    assert len(selected) == 8
    assert len({original.prompt for original in selected.values()}) == 8
    extended = build_anchors(PACK, 12, early_originals=list(selected.values()))
    assert (extended.early_originals, len(extended.originals)) == (8, 20)
    assert extended.base == ANCHORS.version
    assert extended.version != ANCHORS.version
    assert {case.kind for case in extended.damaged if case.original >= 12} >= {"first_line", "cut_off", "repeated"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(ESSAY.rsplit(" ", 3)[0], id="broken off"),
        pytest.param("Trees: A Study.", id="a title"),
        pytest.param("Trees are nice. " * 20, id="already repetitive"),
    ],
)
def test_what_damage_would_not_change_is_not_trusted(text: str) -> None:
    assert select_early([written(n, text) for n in range(20)], ANCHORS, 8) == {}


def test_what_was_flagged_or_cut_is_not_trusted() -> None:
    for flag in (Flag.TRUNCATED, Flag.INSTRUCTION):
        assert select_early([written(n, flags=(flag,)) for n in range(20)], ANCHORS, 8) == {}


def test_one_text_for_every_prompt_is_taken_once() -> None:
    assert len(select_early([written(n, ESSAY) for n in range(40)], ANCHORS, 8)) == 1


def test_really_changed() -> None:
    assert not is_substantially_changed(ESSAY, f" {ESSAY.upper()}!")
    assert not is_substantially_changed(ESSAY, f"{ESSAY} Indeed.")
    assert is_substantially_changed(ESSAY, ESSAY[: len(ESSAY) // 2])
    first, second, *rest = ESSAY.split(". ")
    assert is_substantially_changed(ESSAY, ". ".join([*rest, second, first]))


def test_growth_grants_no_new_level() -> None:
    early_completions = list(select_early(TRUSTED, ANCHORS, 8).values())
    extended = build_anchors(PACK, 12, early_originals=early_completions)
    report = gate_report("b" * 64, "a" * 64)
    before = report.model_copy(update={"anchors": ANCHORS.version, "anchors_base": ANCHORS.base})
    later = report.model_copy(update={"anchors": extended.version, "anchors_base": extended.base, "cycle": "cycle-2"})
    history = [gate_event(before), gate_event(later)]
    assert count_decisions(history, extended.base, "a" * 64, extended.base_originals) == 2


async def test_a_cycle_grows_the_anchors_and_shows_no_proposer_what_it_took(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine, every_traces=16, samples=16) as meta:
        items = [{"id": str(n), "prompt": t.prompt, "completion": t.completion} for n, t in enumerate(TRUSTED[:16])]
        await meta.client.score(TASK, items, run="r", step=1)
        await meta.worker.run_due_cycle(LINEAGE)
        taken = await meta.deps.anchors.early_completion_ids(LINEAGE)
        assert 0 < len(taken) <= 4
        summary = await meta.deps.anchors.summary(TASK)
        assert (summary.early_originals, summary.originals) == (len(taken), 12 + len(taken))
        (report,) = await meta.deps.status_store.reports(LINEAGE)
        assert report.sample is not None
        sampled = {trace_id for pick in report.sample.picks for trace_id in pick.traces}
        assert len(sampled) == 16 - len(taken)
        assert not sampled & taken
        gates = [e.gate for e in await meta.deps.store.history(LINEAGE) if e.gate is not None]
        assert {gate.anchors_base for gate in gates} in (set(), {ANCHORS.base})
