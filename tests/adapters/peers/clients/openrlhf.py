"""OpenRLHF: its executor fetches rewards over HTTP, one sample a request; its generator filters groups, and its
experience maker computes advantages.
"""

import asyncio
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.adapters.peers.clients.worker import OPTIONS, Sample, Values, answer_orders, stand_in_for

stand_in_for("vllm", "flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed")
stand_in_for("deepspeed", "openrlhf.trainer.ray.vllm_engine", "openrlhf.trainer.ray.launcher")

from openrlhf.trainer.ppo_utils import samples_generator  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.utils.agent import SingleTurnAgentExecutor  # noqa: E402

UNSCORED = "&unscored=nan" if OPTIONS == "" else ""
QUERY = f"task={os.environ['REGRADE_TASK']}&run={os.environ['REGRADE_RUN']}{UNSCORED}"
URL = f"{os.environ['REGRADE_URL']}/adapters/openrlhf?{QUERY}"
EXECUTOR = SingleTurnAgentExecutor(URL)
TWO_URLS = SingleTurnAgentExecutor([URL] * 2)
ARGUMENTS = {
    "algo": {
        "dynamic_filtering_enable": True, "dynamic_filtering_range": (0, 1),
        "advantage": {"estimator": "group_norm", "is_correction_level": "off", "gamma": 1.0, "no_whitening": True},
    },
    "reward": {"clip_range": (-10, 10), "overlong_buffer_len": None, "stop_properly_penalty_coef": None},
}  # fmt: skip


class Letters:
    """A tokenizer of code points."""

    def __call__(self, text: str, **options: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[ord(letter) for letter in text]])}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


class Policy:
    """Writes one completion."""

    def __init__(self, completion: str) -> None:
        ids = [ord(letter) for letter in completion]
        self._output = SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)

    async def generate(self, *given: Any, **options: Any) -> Any:
        return SimpleNamespace(outputs=[self._output])


async def _rollout(sample: Sample) -> Any:
    """Every tenth sample by way of two URLs, the second of which gets empty lists."""
    executor = TWO_URLS if len(sample["completion"]) % 10 == 0 else EXECUTOR
    sampling = SimpleNamespace(max_tokens=100, logprobs=None)
    policy = Policy(f"{sample['completion']}<|im_end|>")
    return await executor.execute(sample["prompt"], "", sampling, 10_000, Letters(), policy)


def _rollouts(samples: Sequence[Sample]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*map(_rollout, samples)))

    return asyncio.run(all_of_them())


def score(samples: Sequence[Sample], step: int) -> Values:
    """All at once."""
    rollouts = _rollouts(samples)
    assert all(isinstance(value[0], float) for each in rollouts for value in each["extra_logs"].values())
    return [None if each["reward"] is None else float(each["reward"][0]) for each in rollouts]


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """Of a group that the dynamic filter keeps."""
    arguments = _namespace(ARGUMENTS | {"rollout": {"n_samples_per_prompt": len(samples)}})
    generator = object.__new__(samples_generator.SamplesGenerator)
    generator.args = arguments
    ray = SimpleNamespace(wait=lambda refs, **options: (refs, []), get=lambda ref: ref)
    rollouts = _rollouts(samples)
    prompts = iter([(None, [samples[0]["prompt"]], [""], [None])])
    with (
        mock.patch.object(samples_generator, "ray", ray),
        mock.patch.object(generator, "_dispatch_prompts_to_vllm", return_value=[rollouts]),
    ):
        experiences, _, _ = generator._generate_vllm(prompts, 1, dynamic_filtering=not OPTIONS)
    if not experiences:
        return [None] * len(samples)
    for number, experience in enumerate(experiences):
        experience.index = [number]
        experience.kl = torch.zeros_like(experience.action_mask, dtype=torch.float)
    maker = object.__new__(RemoteExperienceMaker)
    maker.strategy, maker.advantage_estimator = SimpleNamespace(args=arguments), "group_norm"
    maker.kl_ctl = SimpleNamespace(value=0.0)
    maker.compute_advantages_and_returns(experiences)
    return [float(experience.advantages[0][experience.action_mask[0].bool()][0]) for experience in experiences]


def _namespace(values: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(
        **{name: _namespace(value) if isinstance(value, dict) else value for name, value in values.items()}
    )


answer_orders("openrlhf", score, advantages)
