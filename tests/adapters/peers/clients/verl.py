"""verl: its loader wraps our function, its reward managers call it a sample at a time, its agent loop, replay buffer
and advantage estimator do the rest. The queue between them is a dictionary here; it needs a cluster of its own.
"""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.experimental.reward_loop.reward_manager.limited import RateLimitedRewardManager
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1 import agent_loop_tq, replay_buffer
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from tests.adapters.peers.clients.queue_in_memory import Queue
from tests.adapters.peers.clients.worker import OPTIONS, Sample, Values, answer_orders

ROLLOUT = {"rollout": {"n": 4, "val_kwargs": {"n": 1}}}


class Letters:
    """A tokenizer of code points."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


class Worker(agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class):  # type: ignore[misc]
    """The agent loop with completions of ours instead of a policy's."""

    def __init__(self, samples: Sequence[Sample], manager: Any) -> None:
        self.config = OmegaConf.create({"actor_rollout_ref": ROLLOUT})
        self.processor = self.mm_processor_kwargs = None
        self.distillation_enabled = False
        self.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=manager.run_single))]
        self._samples = samples

    async def _run_agent_loop(
        self, sampling_params: Any, trajectory: Any, *, trace: bool, session_id: int, **row: Any
    ) -> None:
        ids = [ord(letter) for letter in self._samples[session_id]["completion"]]
        tokens = {"prompt_ids": [1], "response_ids": ids, "response_mask": [1] * len(ids)}
        output = AgentLoopOutput(**tokens, num_turns=2, metrics=AgentLoopMetrics())
        await self._agent_loop_postprocess(output, False, session_id=session_id, **row)


def _manager() -> Any:
    """A new one: it binds an event loop. `OPTIONS` is its kind, and the name of our function."""
    kind = {"rate_limited": RateLimitedRewardManager}.get(OPTIONS, NaiveRewardManager)
    name = "compute_score_sync" if OPTIONS == "sync" else "compute_score"
    function = {"path": "pkg://regrade.adapters.verl", "name": name}
    config = DictConfig({"reward": {"max_concurrent": 64, "timeout": 300, "custom_reward_function": function}})
    return kind(config, Letters(), get_custom_reward_fn(config))


def _trajectories(samples: Sequence[Sample]) -> dict[str, Any]:
    """What the replay buffer makes of a group: the trajectories that are trained on, by session."""
    queue = Queue()
    prompt = [{"role": "user", "content": samples[0]["prompt"]}]
    row = {"uid": "a", "global_steps": 1, "data_source": "essays", "reward_model": {"ground_truth": ""}}
    row["extra_info"] = {"prompt": prompt, "split": "train"}

    async def rollouts() -> None:
        worker = Worker(samples, _manager())
        await worker._run_prompt(row, {}, {"validate": False})

    with mock.patch.object(agent_loop_tq, "tq", queue), mock.patch.object(replay_buffer, "tq", queue):
        LOOP.run_until_complete(rollouts())
        buffer = replay_buffer.ReplayBuffer("sync", OmegaConf.create(), 1, "drop", OmegaConf.create(), 0.01)
        keys = buffer.sample(1, "train", 1)[0].keys
    fields = {key: queue.fields[key] for key in keys}
    infos = [list(field["extra_fields"]["reward_extra_info"]) for field in fields.values()]
    assert all(info == ["score", "regrade_scored", "regrade_rubric_version", "regrade_flags"] for info in infos)
    return fields


def score(samples: Sequence[Sample], step: int) -> Values:
    """All at once."""
    fields = _trajectories(samples)
    by_session = {int(key.split("_")[1]): float(field["rm_scores"].sum()) for key, field in fields.items()}
    return [by_session.get(number) for number in range(len(samples))]


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """Of GRPO, as the trainer computes them."""
    fields = _trajectories(samples)
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([field[name] for field in fields.values()], batch_first=True)
        for name in ("rm_scores", "response_mask")
    }
    tensors = {"token_level_rewards": padded["rm_scores"], "response_mask": padded["response_mask"]}
    data = DataProto.from_dict(tensors, non_tensors={"uid": np.array(["a"] * len(fields), dtype=object)})
    config = OmegaConf.create({"use_pf_ppo": False})
    result = compute_advantage_for_multi_trajectories(data, list(fields), "grpo", config=config)
    by_session = dict(zip([int(key.split("_")[1]) for key in fields], result.batch["advantages"][:, 0], strict=True))
    return [float(by_session[number]) if number in by_session else None for number in range(len(samples))]


LOOP = asyncio.new_event_loop()
asyncio.set_event_loop(LOOP)
answer_orders("verl", score, advantages)
