"""Ratings of entrants with known strengths: order, coverage of the intervals, and a judge with position bias."""

from collections.abc import Mapping
from itertools import permutations

import numpy as np
import pytest

from services.trainer.evaluate.ratings import MEAN, Game, rate

TRUTH = {"best": 1_200.0, "good": 1_090.0, "fair": 1_000.0, "poor": 910.0, "worst": 800.0}


def _simulate(truth: Mapping[str, float], prompts: int, seed: int, *, first_place: float = 0.0) -> list[Game]:
    """Every pair on every prompt in both orders; an outcome is won or lost."""
    rng = np.random.default_rng(seed)
    games = []
    for prompt in range(prompts):
        for first, second in permutations(truth, 2):
            odds = 10.0 ** ((truth[first] - truth[second] + first_place) / 400.0)
            won = float(rng.random() < odds / (1.0 + odds))
            games.append(Game(prompt, first, second, won))
    return games


def test_the_order_is_recovered_and_the_intervals_cover_the_truth() -> None:
    covered = 0
    widths: list[float] = []
    for seed in range(24):
        ratings = rate(_simulate(TRUTH, 60, seed), draws=200, seed=seed)
        assert [rating.name for rating in ratings.entrants] == list(TRUTH)
        covered += sum(rating.low <= TRUTH[rating.name] <= rating.high for rating in ratings.entrants)
        widths.extend(rating.high - rating.low for rating in ratings.entrants)
    assert covered / (24 * len(TRUTH)) >= 0.9, "nominally 0.95"
    assert np.mean(widths) < 100.0, "an interval that covers everything is useless"


def test_more_prompts_narrow_the_interval() -> None:
    few, many = (rate(_simulate(TRUTH, count, 1), draws=200).entrants[0] for count in (30, 270))
    assert 2.0 < (few.high - few.low) / (many.high - many.low) < 4.5, "three times, as the square root of the count"


def test_position_bias_favours_no_entrant() -> None:
    equal = dict.fromkeys(("a", "b", "c"), MEAN)
    ratings = rate(_simulate(equal, 200, 3, first_place=200.0), draws=100)
    assert ratings.first_place == pytest.approx(200.0, abs=30.0)
    assert all(abs(rating.elo - MEAN) < 25.0 for rating in ratings.entrants)
    apart = rate(_simulate(TRUTH, 200, 4, first_place=200.0), draws=50)
    assert all(rating.elo == pytest.approx(TRUTH[rating.name], abs=45.0) for rating in apart.entrants)


def test_a_judge_that_always_prefers_the_first_rates_all_equal() -> None:
    ratings = rate([Game(n, *pair, 1.0) for n in range(20) for pair in permutations("abc", 2)], draws=20)
    assert all(abs(rating.elo - MEAN) < 1.0 for rating in ratings.entrants)
    assert ratings.first_place > 400.0


def test_ties_count_half() -> None:
    ratings = rate([Game(n, *pair, 0.5) for n in range(20) for pair in permutations("ab", 2)], draws=20)
    assert all(rating.elo == pytest.approx(MEAN) for rating in ratings.entrants)
    assert ratings.first_place == pytest.approx(0.0, abs=1e-6)


def test_a_clean_sweep_has_a_finite_rating() -> None:
    games = [Game(n, a, b, float(a == "strong")) for n in range(10) for a, b in permutations(("strong", "weak"), 2)]
    strong, weak = rate(games, draws=20).entrants
    assert (strong.name, weak.name) == ("strong", "weak")
    assert np.isfinite(strong.elo)
    assert strong.elo - weak.elo > 800.0
    with pytest.raises(ValueError, match="no games"):
        rate([])
