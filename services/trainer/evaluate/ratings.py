"""Elo ratings of a tournament, with intervals. Pure.

Ratings are those of the Bradley-Terry model with a term for the first place, fitted to all games at once, so that the
order of games does not matter and a judge that favours a place favours nobody. A tie counts half. Intervals are
percentiles over prompts drawn anew: games on one prompt are alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MEAN = 1_000.0
SCALE = 400.0 / np.log(10.0)
"""Elo points a unit of log odds: 400 points are odds of ten to one."""

_PRIOR = 0.01
"""Strength of the pull to the mean: it keeps the rating of one that never lost finite."""
_STEPS = 50
_CLOSE = 1e-9

Floats = NDArray[np.float64]


class Game(NamedTuple):
    """Two entrants on one prompt: who was shown first and second, and how much of the game the first one won."""

    prompt: int
    first: str
    second: str
    outcome: float


class Rating(NamedTuple):
    """An entrant's rating and its interval."""

    name: str
    elo: float
    low: float
    high: float


class Ratings(NamedTuple):
    """Best first. `first_place` is what being shown first is worth to this judge, in Elo points."""

    entrants: tuple[Rating, ...]
    first_place: float
    games: int


def rate(games: Sequence[Game], *, draws: int = 1_000, level: float = 0.95, seed: int = 0) -> Ratings:
    """Ratings of everybody who played. Raises `ValueError` without any game."""
    if not games:
        raise ValueError("no game was played")
    names = sorted({name for game in games for name in (game.first, game.second)})
    design, outcomes = _design(games, names), np.array([game.outcome for game in games])
    fitted = _fit(design, outcomes, np.ones(len(games)))
    prompts, which = np.unique([game.prompt for game in games], return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        counts = np.bincount(rng.integers(len(prompts), size=len(prompts)), minlength=len(prompts))
        drawn.append(_fit(design, outcomes, counts[which].astype(float), start=fitted))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.array(drawn), [tail, 1.0 - tail], axis=0)
    told = [
        Rating(name, *(float(MEAN + SCALE * figures[n]) for figures in (fitted, low, high)))
        for n, name in enumerate(names)
    ]
    return Ratings(tuple(sorted(told, key=lambda r: -r.elo)), float(SCALE * fitted[-1]), len(games))


def _design(games: Sequence[Game], names: Sequence[str]) -> Floats:
    """A row a game: 1 for the first, -1 for the second, and 1 for the first place."""
    place = {name: n for n, name in enumerate(names)}
    design = np.zeros((len(games), len(names) + 1))
    for row, game in enumerate(games):
        design[row, place[game.first]] += 1.0
        design[row, place[game.second]] -= 1.0
    design[:, -1] = 1.0
    return design


def _fit(design: Floats, outcomes: Floats, weights: Floats, start: Floats | None = None) -> Floats:
    """The logistic regression by Newton's method, ratings centred."""
    at = np.zeros(design.shape[1]) if start is None else start.copy()
    for _ in range(_STEPS):
        chance = 1.0 / (1.0 + np.exp(-design @ at))
        gradient = design.T @ (weights * (outcomes - chance)) - _PRIOR * at
        curve = (design * (weights * chance * (1.0 - chance))[:, None]).T @ design + _PRIOR * np.eye(len(at))
        step = np.linalg.solve(curve, gradient)
        at += step
        if np.abs(step).max() < _CLOSE:
            break
    at[:-1] -= at[:-1].mean()
    return at
