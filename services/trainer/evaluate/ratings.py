"""Elo ratings of a tournament, with confidence intervals. Pure.

Bradley-Terry model with a term for the first position, fitted to all games at once: the order of games does not matter,
and a judge's position bias favours no entrant. A tie counts half. Intervals are bootstrap percentiles over prompts,
because games on the same prompt are correlated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MEAN = 1_000.0
SCALE = 400.0 / np.log(10.0)
"""Elo points per unit of log odds: 400 points are odds of ten to one."""

_DRAWS = 1_000
"""Bootstrap draws; percentiles of more differ by less than an Elo point."""
_LEVEL = 0.95
"""Coverage of the intervals."""
_PRIOR = 0.01
"""Strength of a ridge penalty that keeps the rating of an undefeated entrant finite."""
_MAX_NEWTON_STEPS = 50
_TOLERANCE = 1e-9

Floats = NDArray[np.float64]


class Game(NamedTuple):
    """Two entrants' completions of one prompt, in the order the judge read them; `outcome` is 1 if the first won."""

    prompt: int
    first: str
    second: str
    outcome: float


class Rating(NamedTuple):
    """An entrant's Elo rating and its interval."""

    name: str
    elo: float
    low: float
    high: float


class Ratings(NamedTuple):
    """Ratings in descending order; `first_place` is the judge's bias for the first position, in Elo points."""

    entrants: tuple[Rating, ...]
    first_place: float
    games: int


def rate(games: Sequence[Game], *, draws: int = _DRAWS, seed: int = 0) -> Ratings:
    """Ratings of all entrants. Raises `ValueError` if there are no games."""
    if not games:
        raise ValueError("no games to rate")
    names = sorted({name for game in games for name in (game.first, game.second)})
    design, outcomes = _design(games, names), np.array([game.outcome for game in games])
    estimate = _fit(design, outcomes, np.ones(len(games)))
    prompts, prompt_of_game = np.unique([game.prompt for game in games], return_inverse=True)
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(draws):
        counts = np.bincount(rng.integers(len(prompts), size=len(prompts)), minlength=len(prompts))
        resampled.append(_fit(design, outcomes, counts[prompt_of_game].astype(float), start=estimate))
    tail = (1.0 - _LEVEL) / 2.0
    low, high = np.quantile(np.array(resampled), [tail, 1.0 - tail], axis=0)
    ratings = [
        Rating(name, *(float(MEAN + SCALE * strengths[n]) for strengths in (estimate, low, high)))
        for n, name in enumerate(names)
    ]
    return Ratings(tuple(sorted(ratings, key=lambda r: -r.elo)), float(SCALE * estimate[-1]), len(games))


def _design(games: Sequence[Game], names: Sequence[str]) -> Floats:
    """A design matrix, one row per game: 1 for the first entrant, -1 for the second, and a constant for position."""
    column = {name: n for n, name in enumerate(names)}
    design = np.zeros((len(games), len(names) + 1))
    for row, game in enumerate(games):
        design[row, column[game.first]] += 1.0
        design[row, column[game.second]] -= 1.0
    design[:, -1] = 1.0
    return design


def _fit(design: Floats, outcomes: Floats, weights: Floats, start: Floats | None = None) -> Floats:
    """Weighted logistic regression by Newton's method; ratings are centred at 0."""
    strengths = np.zeros(design.shape[1]) if start is None else start.copy()
    for _ in range(_MAX_NEWTON_STEPS):
        probability = 1.0 / (1.0 + np.exp(-design @ strengths))
        gradient = design.T @ (weights * (outcomes - probability)) - _PRIOR * strengths
        information = weights * probability * (1.0 - probability)
        hessian = (design * information[:, None]).T @ design + _PRIOR * np.eye(len(strengths))
        step = np.linalg.solve(hessian, gradient)
        strengths += step
        if np.abs(step).max() < _TOLERANCE:
            break
    strengths[:-1] -= strengths[:-1].mean()
    return strengths
