"""ms-swift: its own computation of rewards calls our two reward functions."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from swift.rewards import orms
from swift.rl_core.advantage import compute_advantages
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import compute_rewards_per_func, compute_std_for_dynamic_sampling

import examples.ms_swift.plugin  # noqa: F401 - registers them
from tests.adapters.peers.clients.worker import Sample, Values, answer_orders

GROUP = 4
FUNCTIONS = [orms[name](args=SimpleNamespace(num_generations=GROUP)) for name in ("regrade", "regrade_version")]
WEIGHTS = torch.tensor([1.0, 0.0])


def _rewards(samples: Sequence[Sample], step: int) -> torch.Tensor:
    rows = [
        GRPOSample(
            messages=[
                {"role": "user", "content": sample["prompt"]},
                {"role": "assistant", "content": sample["completion"]},
            ]
        )
        for sample in samples
    ]
    state = SimpleNamespace(global_step=step)
    rewards = compute_rewards_per_func(rows, FUNCTIONS, [None, None], torch.device("cpu"), trainer_state=state)
    assert (rewards[:, 1] >= 1).all()
    return rewards


def score(samples: Sequence[Sample], step: int) -> Values:
    """One batch."""
    return list(_rewards(samples, step)[:, 0].tolist())


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """Of every estimator and scale: equal where all are 0, else those of the default."""
    rewards = _rewards(samples, step)
    estimates = [
        compute_advantages(rewards, WEIGHTS, GROUP, advantage_estimator=estimator, scale_rewards=scale)[0]
        for estimator in ("rloo", "reinforce_plus_plus", "grpo")
        for scale in ("none", "batch", "gdpo", "group")
    ]
    spread = compute_std_for_dynamic_sampling(rewards, WEIGHTS, GROUP)
    left_out = spread == 0.0  # what `--dynamic_sample true` replaces
    assert all((each[left_out] == 0.0).all() for each in estimates)
    return [None if out else value for value, out in zip(estimates[-1].tolist(), left_out.tolist(), strict=True)]


answer_orders("ms-swift", score, advantages)
