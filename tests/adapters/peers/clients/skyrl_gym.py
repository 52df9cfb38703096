"""SkyRL: registered environments, made by skyrl-gym's factory and stepped in threads, as its generator does; its
dynamic sampling and its advantage estimator come after that.
"""

import typing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import skyrl_gym
import torch
import typing_extensions

import examples.skyrl.essays  # noqa: F401 - registers it
from tests.adapters.peers.clients.worker import OPTIONS, Sample, Values, answer_orders

typing.TypedDict = typing_extensions.TypedDict  # SkyRL with pydantic before Python 3.12

from skyrl.backends.skyrl_train.utils.ppo_utils import compute_grpo_outcome_advantage  # noqa: E402
from skyrl.train.utils.trainer_utils import handle_filter_sampling  # noqa: E402

CONFIG = {} if OPTIONS else {"unscored": "nan"}


def _one(sample: Sample) -> float:
    environment = skyrl_gym.make("essays", env_config=CONFIG, extras={})
    environment.init([{"role": "user", "content": sample["prompt"]}])
    output = environment.step(sample["completion"])
    assert output["done"]
    assert environment.get_metrics().keys() == output["metadata"].keys()
    return float(output["reward"])


def score(samples: Sequence[Sample], step: int) -> Values:
    """All at once."""
    with ThreadPoolExecutor(max(1, len(samples))) as pool:
        return list(pool.map(_one, samples))


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """Of a group that dynamic sampling keeps."""
    rewards, uids = score(samples, step), ["a"] * len(samples)
    ids = [[1, 2]] * len(samples)
    output: dict[str, Any] = {"prompt_token_ids": ids, "response_ids": ids, "rewards": rewards, "loss_masks": ids}
    output |= {"stop_reasons": ["stop"] * len(samples), "rollout_logprobs": None, "rollout_metrics": {}}
    sizes = {"train_batch_size": 1, "n_samples_per_prompt": len(samples)}
    _, kept_uids, keep_sampling, _ = handle_filter_sampling(output, uids, sizes, {"sample_batch_count": 1})
    if keep_sampling:
        return [None] * len(samples)
    assert len(kept_uids) == len(samples)
    tokens = torch.tensor([[0.0, reward] for reward in rewards])
    values, _ = compute_grpo_outcome_advantage(tokens, torch.ones_like(tokens), np.array(uids))
    return list(values[:, 0].tolist())


answer_orders("skyrl-gym", score, advantages)
