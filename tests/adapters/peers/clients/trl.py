"""TRL: a real trainer of a tiny random policy; its own computation of rewards calls our function."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from regrade.adapters.trl import RegradeReward
from tests.adapters.peers.clients.worker import Sample, Values, answer_orders
from tests.support.tiny_policy import make_policy

FOLDER = Path(tempfile.mkdtemp())
TRAINER = GRPOTrainer(
    model=str(make_policy(FOLDER / "policy")),
    reward_funcs=RegradeReward(rank=int(os.environ["PEER_RANK"])),
    args=GRPOConfig(
        output_dir=str(FOLDER / "out"), use_cpu=True, bf16=False, report_to="none", num_generations=4,
        per_device_train_batch_size=4, max_completion_length=8, max_steps=1, logging_steps=1,
    ),
    train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "Write about trees."}]] * 4}),
)  # fmt: skip


def score(samples: Sequence[Sample], step: int) -> Values:
    """One batch of a rank; at step 0 the trainer trains a step of its own first."""
    if step == 0:
        TRAINER.train()
        assert TRAINER.state.log_history[0]["regrade/rubric_version"] >= 1.0
    TRAINER.state.global_step = step
    prompts, completions = _turns(samples)
    rows = [{"prompt": prompt} for prompt in prompts]
    rewards = TRAINER._calculate_rewards(rows, prompts, completions, [[1, 2]] * len(samples))
    return list(rewards[:, 0].tolist())


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """The trainer's own, of a group that it generates; the rewards are those of our texts."""
    TRAINER.state.global_step = step
    prompts, completions = _turns(samples)
    rows = [{"prompt": prompt} for prompt in prompts]
    rewards = TRAINER._calculate_rewards(rows, prompts, completions, [[1, 2]] * len(samples))
    with mock.patch.object(TRAINER, "_calculate_rewards", return_value=rewards):
        values = TRAINER._generate_and_score_completions(rows)["advantages"].tolist()
    return list(values)


def _turns(samples: Sequence[Sample]) -> tuple[list[Any], list[Any]]:
    prompts = [[{"role": "user", "content": sample["prompt"]}] for sample in samples]
    return prompts, [[{"role": "assistant", "content": sample["completion"]}] for sample in samples]


answer_orders("trl", score, advantages)
