"""The policy: a softmax over strategies, trained by a group-relative policy gradient. Pure, fixed by its seed.

Source of the advantages: GRPO, arXiv 2402.03300. A completion's advantage is its reward minus the group's mean,
in standard deviations of the group; items without a reward are left out.
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean, pstdev

_MIN_DEVIATION = 1e-6
"""Groups with a smaller standard deviation give no advantages."""


class Policy:
    """A distribution over strategies. A strategy that is not introduced yet has probability 0."""

    def __init__(self, initial_probabilities: Sequence[float], learning_rate: float, seed: str) -> None:
        self._logits = [math.log(p) if p > 0.0 else -math.inf for p in initial_probabilities]
        self._learning_rate = learning_rate
        self._rng = random.Random(seed)

    @property
    def mass(self) -> list[float]:
        """The probability of each strategy."""
        top = max(self._logits)
        weights = [math.exp(logit - top) for logit in self._logits]
        total = sum(weights)
        return [weight / total for weight in weights]

    def introduce(self, strategy: int, mass: float) -> None:
        """Give a strategy this probability, taken from the others in proportion."""
        top = max(self._logits)
        rest = top + math.log(sum(math.exp(logit - top) for logit in self._logits))
        self._logits[strategy] = rest + math.log(mass / (1.0 - mass))

    def sample(self, count: int) -> list[int]:
        """The strategies of a group's completions."""
        return self._rng.choices(range(len(self._logits)), weights=self.mass, k=count)

    def choose(self, count: int, of: int) -> list[int]:
        """`count` distinct prompts out of `of`."""
        return self._rng.sample(range(of), count)

    def update(self, groups: Sequence[tuple[Sequence[int], Sequence[float | None]]]) -> None:
        """One gradient step on groups of (strategies, rewards)."""
        mass = self.mass
        for strategies, rewards in groups:
            for strategy, advantage in advantages(strategies, rewards):
                step = self._learning_rate * advantage / (len(strategies) * len(groups))
                for other, p in enumerate(mass):
                    self._logits[other] += step * ((other == strategy) - p)


def advantages(strategies: Sequence[int], rewards: Sequence[float | None]) -> list[tuple[int, float]]:
    """The strategy and advantage of each scored completion; empty for a group with equal rewards."""
    scored = [(s, r) for s, r in zip(strategies, rewards, strict=True) if r is not None]
    values = [reward for _, reward in scored]
    deviation = pstdev(values) if len(values) > 1 else 0.0
    if deviation <= _MIN_DEVIATION:
        return []
    mean = fmean(values)
    return [(strategy, (reward - mean) / deviation) for strategy, reward in scored]
