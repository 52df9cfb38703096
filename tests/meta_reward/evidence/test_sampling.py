"""Sampling: each strategy, the mix, and that a report says enough to draw the same again. Pure."""

from collections import Counter
from random import Random

import pytest

from regrade.contracts import CriterionScore, SampleStrategy, Trace
from services.meta_reward.evidence.sampling import (
    SamplingPool,
    Strategy,
    disagreement,
    draw_sample,
    great_pairs,
    recent,
    sampled_pairs,
    sampled_traces,
    suspicious,
    uniform,
)
from services.meta_reward.evidence.text_features import extract_features
from tests.support.builders import ESSAY, trace

S = SampleStrategy
MIXED = {S.SUSPICIOUS: 0.4, S.DISAGREEMENT: 0.2, S.RECENT: 0.2, S.GREAT_PAIRS: 0.1, S.UNIFORM: 0.1}


def pool(traces: list[Trace], **audit: float) -> SamplingPool:
    return SamplingPool(traces, extract_features(traces), audit)


def scores(*values: float, confidence: float = 1.0) -> tuple[CriterionScore, ...]:
    return tuple(CriterionScore(id=f"c{n}", score=value, confidence=confidence) for n, value in enumerate(values))


def window(count: int = 40) -> list[Trace]:
    return [
        trace(str(n), prompt=f"Essay {n % 4}", completion=f"{ESSAY} {'And so on. ' * (n % 5)}", reward=n % 10 / 10)
        for n in range(count)
    ]


def first_of(strategy: Strategy, traces: list[Trace], **audit: float) -> tuple[str, ...]:
    return tuple(picked.item_id for picked in next(strategy(pool(traces, **audit), Random(0))))


def test_suspicious_is_the_well_rewarded_odd_one() -> None:
    plain = [trace(str(n), reward=0.5) for n in range(20)]
    odd_and_poor = trace("poor", completion="!" * 5, reward=0.0)
    assert first_of(suspicious, [*plain, odd_and_poor, trace("odd", completion="!" * 5, reward=0.9)]) == ("odd",)


def test_disagreement_is_doubt_conflict_or_an_audit() -> None:
    sure = [trace(str(n), reward=0.5, criteria=scores(n / 10, n / 10)) for n in range(10)]
    assert first_of(disagreement, [*sure, trace("unsure", criteria=scores(0.5, 0.5, confidence=0.1))]) == ("unsure",)
    assert first_of(disagreement, [*sure, trace("torn", criteria=scores(1.0, 0.0))]) == ("torn",)
    assert first_of(disagreement, sure, **{"trace-4": 1.0}) == ("4",)


def test_recent_and_uniform() -> None:
    traces = window(10)
    assert first_of(recent, traces) == ("9",)
    order = [pick[0].item_id for pick in uniform(pool(traces), Random(1))]
    assert sorted(order) == sorted(t.item_id for t in traces)
    assert order != [pick[0].item_id for pick in uniform(pool(traces), Random(2))]


def test_great_pairs_are_of_one_prompt_great_and_unlike() -> None:
    alike = [trace(f"a{n}", prompt="A", completion=f"{ESSAY} {n}", reward=0.9) for n in range(2)]
    unlike = [
        trace("good", prompt="B", completion="Whales sing in the deep and cold sea.", reward=0.91),
        trace("better", prompt="B", completion="A garden feeds whoever tends it.", reward=0.95),
    ]
    poor = [trace(f"p{n}", prompt="B", completion=f"Nothing {n}", reward=0.1) for n in range(8)]
    assert first_of(great_pairs, [*poor, *alike, *unlike]) == ("better", "good")
    alone = [trace(str(n), prompt=f"P{n}", reward=0.9) for n in range(4)]
    assert list(great_pairs(pool(alone), Random(0))) == []


def test_places_go_by_weight() -> None:
    """Over many seeds each strategy has its share of places; in one sample it is rounded up or down."""
    traces = window()
    counted: Counter[SampleStrategy] = Counter()
    candidates = pool(traces)
    for seed in range(300):
        report = draw_sample(candidates, 5, {S.RECENT: 0.5, S.UNIFORM: 0.3, S.SUSPICIOUS: 0.2}, str(seed))
        own = Counter(pick.strategy for pick in report.picks)
        assert own[S.RECENT] in (2, 3)
        counted += own
    shares = {strategy: count / 1_500 for strategy, count in counted.items()}
    assert shares == pytest.approx({S.RECENT: 0.5, S.UNIFORM: 0.3, S.SUSPICIOUS: 0.2}, abs=0.02)


def test_the_papers_sample_is_one_of_them() -> None:
    report = draw_sample(pool(window()), 8, {S.UNIFORM: 1.0}, "seed")
    assert {pick.strategy for pick in report.picks} == {S.UNIFORM}


@pytest.mark.parametrize("count", [1, 2, 7, 40, 64])
def test_a_sample_is_drawn_again_from_its_report(count: int) -> None:
    traces = window()
    report = draw_sample(pool(traces), count, MIXED, "task/main/cycle-7")
    again = type(report).model_validate_json(report.model_dump_json())
    assert draw_sample(pool(traces), again.count, again.weights, again.seed) == report
    picked = sampled_traces(report, traces)
    assert len({t.trace_id for t in picked}) == len(picked) == min(count, len(traces))
    assert all(better.reward >= other.reward for better, other in sampled_pairs(report, traces))


def test_another_seed_draws_another_sample() -> None:
    traces = window()
    one, other = (draw_sample(pool(traces), 6, MIXED, seed) for seed in ("a", "b"))
    assert one.picks != other.picks


def test_a_pair_takes_two_places() -> None:
    traces = window()
    for count, places in ((1, [1]), (4, [2, 2]), (5, [2, 2, 1])):
        report = draw_sample(pool(traces), count, {S.GREAT_PAIRS: 1.0}, "x")
        assert [len(pick.traces) for pick in report.picks] == places
