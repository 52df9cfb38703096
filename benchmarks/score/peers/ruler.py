"""RULER of openpipe-art: the completions of a group compared in one call, by litellm."""

import os
from collections.abc import Sequence

from benchmarks.score.worker import Measure, chat_choice, engine_url, groupwise, serve_measurements
from tests.support.texts import GROUP

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


def prepare() -> Measure:
    """RULER with its own rubric."""
    from art.rewards.ruler import ruler

    explanation = "It keeps to the subject and is clearly put."
    scores = [{"trajectory_id": str(n + 1), "explanation": explanation, "score": 0.6} for n in range(GROUP)]
    endpoint = {"api_base": engine_url("ruler", chat_choice({"scores": scores})) + "/v1", "api_key": "none"}

    async def judge(prompt: str, completions: Sequence[str]) -> list[float]:
        trajectories = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
            for completion in completions
        ]
        response = await ruler(trajectories, "openai/gpt-4o", extra_litellm_params=endpoint)
        return [result.score for result in response]

    return groupwise(judge)()


if __name__ == "__main__":
    serve_measurements(prepare)
