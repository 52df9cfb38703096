"""AReaL: its RLVR workflow scores each rollout of a group in its pool of processes; its normalization gives advantages.

A workflow that raises rejects the group: AReaL's executor catches it and waits for another one.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import torch
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters, NormConfig
from areal.infra.remote_inf_engine import GroupedRolloutWorkflow
from areal.utils import logging
from areal.utils.data import Normalization
from areal.workflow.rlvr import RLVRWorkflow

from examples.areal.workflow import make_workflow
from regrade.adapters.areal import RegradeReward
from regrade.adapters.core import UnscoredError
from tests.adapters.peers.clients.worker import Sample, Values, answer_orders


class Letters:
    """A tokenizer of code points."""

    pad_token_id, eos_token_id = 0, 1

    def apply_chat_template(self, turns: Any, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in turns[-1]["content"]]}

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Engine:
    """Writes the completions of the samples, in order."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._completions = iter([sample["completion"] for sample in samples])

    async def agenerate(self, request: Any) -> ModelResponse:
        tokens = [ord(letter) for letter in next(self._completions)]
        some = len(tokens)
        return ModelResponse(request.input_ids, tokens, output_logprobs=[0.0] * some, output_versions=[0] * some)


def _workflow(step: int) -> RLVRWorkflow:
    """In the pool, and by way of the event loop."""
    if step % 2:
        return make_workflow(GenerationHyperparameters(), Letters(), run=os.environ["REGRADE_RUN"])
    return RLVRWorkflow(RegradeReward(), GenerationHyperparameters(), Letters())


def _group(samples: Sequence[Sample], step: int) -> torch.Tensor:
    """The rewards of a group. Raises where one is missing."""
    grouped = GroupedRolloutWorkflow(_workflow(step), len(samples), logging.getLogger("peer"))
    turns = [{"role": "user", "content": samples[0]["prompt"]}]
    result = asyncio.run(grouped.arun_episode(Engine(samples), {"messages": turns}))
    assert result is not None
    rewards: torch.Tensor = result["rewards"]
    return rewards


def score(samples: Sequence[Sample], step: int) -> Values:
    """One rollout after the other, each a group of its own."""
    return [_one(sample, step) for sample in samples]


def _one(sample: Sample, step: int) -> float | None:
    try:
        return float(_group([sample], step)[0])
    except UnscoredError:
        return None


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """Of a group, in the way of the executor: one that raises is rejected as a whole."""
    try:
        rewards = _group(samples, step)
    except UnscoredError:
        return [None] * len(samples)
    norm = Normalization(NormConfig(mean_level="group", std_level="group", group_size=len(samples)))
    return list(norm(rewards).tolist())


answer_orders("areal", score, advantages)
