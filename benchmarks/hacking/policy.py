"""The policy: a softmax over strategies, trained by a group-relative policy gradient. Pure, fixed by its seed.

Source of the advantages: GRPO, arXiv 2402.03300. Each of a prompt's completions is compared with the mean of its
group, in standard deviations of it; an item without a reward is left out of its group.
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean, pstdev

_FLAT = 1e-6


class Policy:
    """Probabilities over strategies. One not come upon yet has none."""

    def __init__(self, start: Sequence[float], learning_rate: float, seed: str) -> None:
        """`start` are the probabilities at first."""
        self._logits = [math.log(p) if p > 0.0 else -math.inf for p in start]
        self._learning_rate = learning_rate
        self._rng = random.Random(seed)

    @property
    def mass(self) -> list[float]:
        """The probability of each strategy."""
        top = max(self._logits)
        weights = [math.exp(logit - top) for logit in self._logits]
        total = sum(weights)
        return [weight / total for weight in weights]

    def come_upon(self, strategy: int, mass: float) -> None:
        """A strategy appears with that much mass; the others give it up in proportion."""
        top = max(self._logits)
        rest = top + math.log(sum(math.exp(logit - top) for logit in self._logits))
        self._logits[strategy] = rest + math.log(mass / (1.0 - mass))

    def sample(self, count: int) -> list[int]:
        """Strategies of a group's completions."""
        return self._rng.choices(range(len(self._logits)), weights=self.mass, k=count)

    def choose(self, count: int, of: int) -> list[int]:
        """`count` different prompts out of `of`."""
        return self._rng.sample(range(of), count)

    def learn(self, groups: Sequence[tuple[Sequence[int], Sequence[float | None]]]) -> None:
        """One step, from groups of (strategies, rewards)."""
        mass = self.mass
        for strategies, rewards in groups:
            for strategy, advantage in advantages(strategies, rewards):
                step = self._learning_rate * advantage / (len(strategies) * len(groups))
                for other, p in enumerate(mass):
                    self._logits[other] += step * ((other == strategy) - p)


def advantages(strategies: Sequence[int], rewards: Sequence[float | None]) -> list[tuple[int, float]]:
    """Each scored completion's strategy and advantage; none for a group whose rewards are all equal."""
    scored = [(s, r) for s, r in zip(strategies, rewards, strict=True) if r is not None]
    values = [reward for _, reward in scored]
    deviation = pstdev(values) if len(values) > 1 else 0.0
    if deviation <= _FLAT:
        return []
    mean = fmean(values)
    return [(strategy, (reward - mean) / deviation) for strategy, reward in scored]
