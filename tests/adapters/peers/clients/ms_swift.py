"""ms-swift: its own computation of rewards calls our two reward functions."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from swift.rewards import orms
from swift.rl_core.data import GRPOSample
from swift.rl_core.grpo_algorithm import compute_rewards_per_func

import examples.ms_swift.plugin  # noqa: F401 - registers them
from tests.adapters.peers.clients.worker import Sample, answer_orders

FUNCTIONS = [orms["regrade"](), orms["regrade_version"]()]


def score(samples: Sequence[Sample], step: int) -> Sequence[float]:
    """One batch."""
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
    return list(rewards[:, 0].tolist())


answer_orders("ms-swift", score)
