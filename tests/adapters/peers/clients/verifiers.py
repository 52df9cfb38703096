"""verifiers 0.4: a task with a reward of ours scores traces; one that cannot be scored comes out with an error."""

import asyncio
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from verifiers import v1 as vf

from examples.verifiers.essays_v1 import Essay
from tests.adapters.peers.clients.worker import Sample, Values, answer_orders


async def _scored(number: int, sample: Sample, step: int) -> Any:
    """A trace that is scored, or fails, as in verifiers' own rollout."""
    task = Essay(vf.TaskData(idx=number, prompt=sample["prompt"]), vf.TaskConfig())
    agent = vf.AgentInfo.model_construct()
    fields = {"task": vf.TraceTask.model_construct(data=task.data), "agent": agent, "root_reply": sample["completion"]}
    trace = vf.Trace.model_construct(id=f"{step}-{hash(sample['completion'])}", ok=True, **fields)
    try:
        await task.score(trace)
        assert trace.metrics["regrade_scored"] == 1.0
    except vf.TaskError as error:
        trace.record_error(error)
        trace.ok = False
    return trace


def _all_scored(samples: Sequence[Sample], step: int) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*(_scored(n, sample, step) for n, sample in enumerate(samples))))

    return asyncio.run(all_of_them())


def score(samples: Sequence[Sample], step: int) -> Values:
    """All at once."""
    return [None if trace.has_error else float(trace.reward) for trace in _all_scored(samples, step)]


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """verifiers computes none: the rule of prime-rl 559b447 (`iter_trainable_traces`, `GRPOAlgorithm`), not on PyPI."""
    traces = _all_scored(samples, step)
    mean = fmean(trace.reward for trace in traces if not trace.has_error)
    return [None if trace.has_error else trace.reward - mean for trace in traces]


answer_orders("verifiers", score, advantages)
