"""rubric: one criterion by its per-criterion grader; the model call is the user's, here a plain `AsyncOpenAI`."""

import os

from benchmarks.score.worker import Measure, answer_orders, engine_url, pointwise, verdict

os.environ["OPENAI_API_KEY"] = "none"


def prepare() -> Measure:
    """The grader with its own prompt, the answer parsed by the OpenAI client into the grader's schema."""
    from openai import AsyncOpenAI
    from rubric import Rubric
    from rubric.autograders import PerCriterionGrader
    from rubric.autograders.schemas import PerCriterionOutput
    from rubric.types import Criterion

    said = verdict({"criterion_status": "MET", "explanation": "It keeps to the subject."})
    client = AsyncOpenAI(base_url=engine_url("rubric", said) + "/v1")

    async def generate(system_prompt: str, user_prompt: str) -> PerCriterionOutput:
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": user_prompt}]
        found = await client.chat.completions.parse(
            model="gpt-4o", messages=messages, response_format=PerCriterionOutput
        )
        return found.choices[0].message.parsed

    grader = PerCriterionGrader(generate_fn=generate)
    criteria = Rubric([Criterion(weight=1.0, requirement="Fits the task.")])

    async def judge(prompt: str, completion: str) -> float:
        return float((await criteria.grade(completion, autograder=grader, query=prompt)).score)

    return pointwise(judge)()


if __name__ == "__main__":
    answer_orders(prepare)
