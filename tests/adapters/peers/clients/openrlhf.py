"""OpenRLHF: its single-turn executor fetches rewards over HTTP, one sample a request, as its rollouts do."""

import asyncio
import os
from collections.abc import Sequence

from openrlhf.utils.agent import SingleTurnAgentExecutor

from tests.adapters.peers.clients.worker import Sample, answer_orders

URL = f"{os.environ['REGRADE_URL']}/adapters/openrlhf?task={os.environ['REGRADE_TASK']}&run={os.environ['REGRADE_RUN']}"
EXECUTOR = SingleTurnAgentExecutor(f"{URL}&unscored=nan")
TWO_URLS = SingleTurnAgentExecutor([f"{URL}&unscored=nan"] * 2)


async def _one(sample: Sample) -> float:
    """Every tenth sample by way of two URLs, the second of which gets empty lists."""
    executor = TWO_URLS if len(sample["completion"]) % 10 == 0 else EXECUTOR
    query = f"{sample['prompt']}{sample['completion']}<|im_end|>"
    answers = await executor._fetch_rewards_via_http([query], [sample["prompt"]], [""])
    answer = answers[0]
    assert all(isinstance(value[0], float) for value in answer["extra_logs"].values())
    return float(answer["rewards"][0])


def score(samples: Sequence[Sample], step: int) -> Sequence[float]:
    """All at once."""

    async def all_of_them() -> Sequence[float]:
        return await asyncio.gather(*map(_one, samples))

    return asyncio.run(all_of_them())


answer_orders("openrlhf", score)
