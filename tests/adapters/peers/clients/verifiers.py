"""verifiers 0.4: a task with a reward of ours scores traces; one that cannot be scored must come out with an error."""

import asyncio
from collections.abc import Sequence
from typing import Any

from verifiers import v1 as vf

from examples.verifiers.essays_v1 import Essay
from tests.adapters.peers.clients.worker import Sample, answer_orders


def _trace(task: Essay, sample: Sample, step: int) -> Any:
    agent = vf.AgentInfo.model_construct()
    fields = {"task": vf.TraceTask.model_construct(data=task.data), "agent": agent, "root_reply": sample["completion"]}
    return vf.Trace.model_construct(id=f"{step}-{hash(sample['completion'])}", **fields)


async def _one(number: int, sample: Sample, step: int) -> float | None:
    task = Essay(vf.TaskData(idx=number, prompt=sample["prompt"]), vf.TaskConfig())
    trace = _trace(task, sample, step)
    try:
        await task.score(trace)
    except vf.TaskError:
        return None  # verifiers records it on the trace, which is left out
    assert trace.metrics["regrade_scored"] == 1.0
    return float(trace.reward)


def score(samples: Sequence[Sample], step: int) -> Sequence[float | None]:
    """All at once."""

    async def all_of_them() -> list[float | None]:
        return list(await asyncio.gather(*(_one(n, sample, step) for n, sample in enumerate(samples))))

    return asyncio.run(all_of_them())


answer_orders("verifiers", score)
