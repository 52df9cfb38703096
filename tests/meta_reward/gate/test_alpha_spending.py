"""How sure the gate may be: levels that are spent, tests that agree, and too few originals. Pure but for a scorer."""

import random
from collections.abc import Sequence
from math import log2
from statistics import fmean

import pytest

from regrade.contracts import LabelledPair, LineageEvent, Mode, Reason, ReasonCode, Rubric, ScoreItem
from regrade.tasks import load_pack
from regrade.tasks.anchors import LABELLED, build_anchors
from regrade.tasks.pack import Original
from services.kit.store.rubric_store import gate_event
from services.meta_reward.gate.alpha_spending import (
    count_decisions,
    decision_alpha,
    detectable_gain,
    min_originals,
    sign_flip_test,
)
from services.meta_reward.gate.anchor_statistics import paired_gain, score_anchors
from services.meta_reward.gate.gate import Gate, GateError, GateLimits
from services.meta_reward.types import Candidate
from tests.support.builders import ESSAY, TASK, checks_only, gate_report, llm, rubric

PACK = load_pack(TASK)
PAIRS = [LabelledPair(prompt=f"Question {n}?", better=f"Answer {n}, and why.", worse=f"Answer {n}") for n in range(40)]


def test_all_decisions_together_spend_no_more_than_alpha() -> None:
    levels = [decision_alpha(0.05, decision) for decision in range(1, 5_000)]
    assert levels == sorted(levels, reverse=True)
    assert 0.0499 < sum(levels) < 0.05


def test_a_gain_takes_as_many_originals_as_a_flip_test() -> None:
    for level in (0.05, 0.01, 0.001):
        fewest = min_originals(level)
        assert sign_flip_test([1.0] * fewest) <= level < sign_flip_test([1.0] * (fewest - 1))
        assert paired_gain(dict.fromkeys(range(fewest), 1.0), dict.fromkeys(range(fewest), 0.0), level).lower > 0
        assert paired_gain(dict.fromkeys(range(fewest - 1), 1.0), dict.fromkeys(range(fewest), 0.0), level).lower == 0
    assert sign_flip_test([0.0, 0.0]) == 1.0
    mixed = [1.0] * 36 + [-1.0] * 24
    assert sign_flip_test(mixed) == pytest.approx(sign_flip_test([2.0 * step for step in mixed]))
    assert sign_flip_test(mixed) == pytest.approx(0.077, abs=0.001)
    assert sign_flip_test(mixed * 2) == pytest.approx(0.014, abs=0.002)


def test_chance_passes_no_more_often_than_the_level_says() -> None:
    """Candidates that are no better, on few originals, where the bootstrap alone is too sure."""
    rng = random.Random(1)
    nothing = dict.fromkeys(range(12), 0.0)
    passed = sum(
        paired_gain({n: float(rng.choice((-1, 0, 0, 1))) for n in range(12)}, nothing, 0.05).lower > 0.0
        for _ in range(400)
    )
    assert passed <= 400 * 0.05


def test_the_detectable_gain_is_detected_about_four_times_in_five() -> None:
    rng = random.Random(2)
    differences = [0.2, -0.2] * 13
    gain = detectable_gain(differences, 0.05)
    nothing = dict.fromkeys(range(26), 0.0)
    draws = [{n: rng.gauss(gain, 0.2) for n in range(26)} for _ in range(200)]
    detected = fmean(paired_gain(draw, nothing, 0.05).lower > 0.0 for draw in draws)
    assert 0.65 < detected < 0.95
    assert detectable_gain(differences * 4, 0.05) == pytest.approx(gain / 2)


def test_labelled_pairs_are_split_and_change_the_version() -> None:
    plain, own = build_anchors(PACK, 12), build_anchors(PACK, 12, PAIRS)
    assert own.version != plain.version == build_anchors(PACK, 12).version
    assert build_anchors(PACK, 12, PAIRS[::-1]) == own
    measured = {case.completion for case in own.damaged if case.kind == LABELLED}
    visible = {pair.worse for pair in own.visible_pairs}
    assert measured | visible == {pair.worse for pair in PAIRS}
    assert not measured & visible
    assert 0.2 < len(visible) / len(PAIRS) < 0.6
    for case in own.damaged:
        if case.kind == LABELLED:
            assert own.originals[case.original].completion == f"{case.completion}, and why."


async def open_gate(limits: GateLimits, originals: int = 12, calls: list[int] | None = None) -> Gate:
    """A gate whose scorer likes every rubric but the first for what is right, and counts the items."""
    anchors = build_anchors(PACK, originals)

    async def score(task: str, wanted: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
        if calls is not None:
            calls.append(len(items))
        numbers = [int((item.id or "").removeprefix("anchor-")) for item in items]
        if wanted.digest == checks_only(1).digest:
            return [0.5 + n / 10_000 for n in numbers]
        return [0.9 - n / 1_000 if n < len(anchors.originals) else 0.1 for n in numbers]

    return Gate(score, TASK, anchors, limits, [])


async def test_the_gate_refuses_to_decide_with_too_few_originals() -> None:
    """The same question asked for the twentieth time takes more of them."""
    candidate = [Candidate(checks_only(2), "test")]
    first = await open_gate(GateLimits(0.05, 0.05))
    (report,) = (await first.decide("cycle", candidate, checks_only(1), None)).reports
    assert report.passed
    assert (report.level, report.decisions, report.originals) == (0.0125, 1, 12)
    assert report.detectable_gain is not None
    late = await open_gate(GateLimits(0.05, 0.05, decision=20))
    with pytest.raises(GateError, match=r"12 originals .* are too few: decision 20 .* takes 15"):
        await late.decide("cycle", candidate, checks_only(1), None)


async def test_what_the_budget_does_not_hold_is_not_measured() -> None:
    gate = await open_gate(GateLimits(0.05, 0.05, calls=150))
    candidates = [Candidate(rubric(llm(name)), "test") for name in ("one", "two")]
    decision = await gate.decide("cycle", candidates, checks_only(1), None)
    assert [report.candidate.digest for report in decision.reports] == [candidates[0].rubric.digest]
    ((left_out, reason),) = decision.unmeasured
    assert left_out == candidates[1]
    assert reason == Reason(code=ReasonCode.BUDGET, text="budget: takes up to 112 judge calls, 38 of 150 remain")


@pytest.mark.parametrize(("mode", "each"), [(Mode.EXPECTED, 2), (Mode.REASONED, 4), (Mode.PLANNED, 4)])
async def test_the_budget_counts_what_a_mode_costs(mode: Mode, each: int) -> None:
    """One call too few is too few."""
    candidate = Candidate(rubric(llm("one"), llm("two")), "test")
    for calls, reports in ((112 * each, 1), (112 * each - 1, 0)):
        gate = await open_gate(GateLimits(0.05, 0.05, calls=calls, mode=mode))
        decision = await gate.decide("cycle", [candidate], checks_only(1), None)
        assert len(decision.reports) == reports


async def test_a_loser_is_dropped_on_a_third() -> None:
    calls: list[int] = []
    gate = await open_gate(GateLimits(0.05, 0.05), calls=calls)
    same = checks_only(1).model_copy(update={"rationale": "as good as the active one"})
    (report,) = (await gate.decide("cycle", [Candidate(same, "test")], checks_only(1), None)).reports
    assert report.reasons[0].text == "dropped after a third of the originals: no gain"
    assert calls[1] < calls[0] / 2
    assert len(calls) == 2


def test_decisions_are_counted_by_anchors_and_by_the_rubric_to_beat() -> None:
    def event(cycle: str, anchors: str, active: str) -> LineageEvent:
        return gate_event(gate_report("c" * 64, active, cycle=cycle).model_copy(update={"anchors": anchors}))

    history = [
        event("1", "old", "a" * 64),
        event("2", "new", "a" * 64),
        event("2", "new", "a" * 64),
        event("3", "new", "a" * 64),
        event("4", "new", "b" * 64),
    ]
    assert count_decisions(history, "new", "a" * 64, 24) == 3, "the old ones do not say on how many they were made"
    assert count_decisions(history, "new", "b" * 64, 24) == 1
    assert count_decisions([], "new", "a" * 64, 24) == 0


def decided(sizes: Sequence[int]) -> list[LineageEvent]:
    """A decision a day against one rubric, each on a base of its own, of so many originals."""
    reports = [gate_report("c" * 64, "a" * 64, cycle=str(day)) for day in range(len(sizes))]
    bases = [{"anchors": f"{day}", "anchors_base": f"{day}", "base_originals": size} for day, size in enumerate(sizes)]
    return [gate_event(report.model_copy(update=base)) for report, base in zip(reports, bases, strict=True)]


def test_a_decision_counts_until_there_are_twice_as_many_originals() -> None:
    counted = [count_decisions(decided([24, 30, 20]), "now", "a" * 64, size) for size in (20, 39, 40, 47, 48, 59, 60)]
    assert counted == [3, 3, 2, 2, 1, 1, 0]
    assert count_decisions(decided([24, 30, 20]), "2", "a" * 64, 60) == 1, "on the same base it always counts"


@pytest.mark.parametrize("sizes", [range(24, 24 + 512), [24, 48, 96, 24, 48, 96] * 20, [24, 25] * 100])
def test_a_pair_a_day_does_not_give_the_level_back(sizes: Sequence[int]) -> None:
    """However the anchors grow or shrink: `alpha` once, and once more for each doubling from the least to the most."""
    history = decided(sizes)
    made = [1 + count_decisions(history[:day], f"{day}", "a" * 64, size) for day, size in enumerate(sizes)]
    doublings = int(log2(max(sizes) / min(sizes)))
    assert sum(decision_alpha(0.05, decision) for decision in made) <= 0.05 * (1 + doublings)


async def test_a_report_tells_on_how_many_originals_of_its_base_it_rests() -> None:
    """All of them, dropped at an interim analysis or not, and without those that the anchors grew by."""
    early_originals = [Original(id=f"e{n}", prompt=f"Early {n}?", completion=f"{ESSAY} Number {n}.") for n in range(4)]
    anchors = build_anchors(PACK, 12, PAIRS, early_originals)

    async def score(task: str, wanted: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
        return [0.5] * len(items)

    gate = Gate(score, TASK, anchors, GateLimits(0.05, 0.05), [])
    (report,) = (await gate.decide("cycle", [Candidate(checks_only(2), "test")], checks_only(1), None)).reports
    assert report.originals < report.base_originals == len(build_anchors(PACK, 12, PAIRS).originals)


def test_a_coin_gains_nothing() -> None:
    """Where the old rubric sees ties, a coin puts half of the pairs right, and as many wrong."""
    anchors = build_anchors(PACK, 24)
    rng = random.Random(3)
    counts = [True] * len(anchors.cases)
    coin = score_anchors(anchors, [rng.random() for _ in anchors.cases], counts)
    ties = score_anchors(anchors, [0.5] * len(anchors.cases), counts)
    assert coin.mean_order > 0.4
    assert abs(coin.mean_net) < 0.15
    assert paired_gain(coin.net, ties.net, 0.05).lower <= 0.0 < paired_gain(coin.order, ties.order, 0.05).lower
