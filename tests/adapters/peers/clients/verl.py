"""verl: its loader wraps our function, its reward managers (rate-limited, naive) call it a sample at a time."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.limited import RateLimitedRewardManager
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.reward import get_custom_reward_fn

from tests.adapters.peers.clients.worker import Sample, answer_orders

LOADED = {"path": "pkg://regrade.adapters.verl", "name": "compute_score"}
CONFIG = DictConfig({"reward": {"max_concurrent": 64, "timeout": 300, "custom_reward_function": LOADED}})


class Letters:
    """A tokenizer of code points."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


def _row(sample: Sample) -> DataProto:
    ids = torch.tensor([[ord(letter) for letter in sample["completion"]]])
    columns = {
        "data_source": "essays",
        "reward_model": {"ground_truth": ""},
        "extra_info": {"prompt": np.array([{"role": "user", "content": sample["prompt"]}]), "split": "train"},
    }
    return DataProto.from_dict(
        tensors={
            "prompts": torch.zeros((1, 1), dtype=torch.long),
            "responses": ids,
            "attention_mask": torch.ones((1, 1 + ids.shape[1]), dtype=torch.long),
        },
        non_tensors={name: np.array([value], dtype=object) for name, value in columns.items()},
    )


def score(samples: Sequence[Sample], step: int) -> Sequence[float]:
    """All at once, in an event loop of this call; the names beside the scores must be those of the first sample."""

    async def all_of_them() -> list[dict[str, Any]]:
        compute = get_custom_reward_fn(CONFIG)
        kind = (RateLimitedRewardManager, NaiveRewardManager)[step % 2]
        manager = kind(CONFIG, Letters(), compute)
        return list(await asyncio.gather(*(manager.run_single(_row(sample)) for sample in samples)))

    results = LOOP.run_until_complete(all_of_them())
    names = list(results[0]["reward_extra_info"])
    assert names == ["score", "regrade_scored", "regrade_rubric_version", "regrade_flags"]
    assert all(list(result["reward_extra_info"]) == names for result in results)
    return [result["reward_score"] for result in results]


LOOP = asyncio.new_event_loop()
asyncio.set_event_loop(LOOP)
answer_orders("verl", score)
