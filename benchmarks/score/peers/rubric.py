"""rubric: one criterion by its per-criterion grader; the user supplies the model call, here a plain `AsyncOpenAI`."""

import os

from benchmarks.score.worker import Measure, chat_choice, engine_url, pointwise, serve_measurements

os.environ["OPENAI_API_KEY"] = "none"


def prepare() -> Measure:
    """The grader with its own prompt; the OpenAI client parses the reply into the grader's schema."""
    from openai import AsyncOpenAI
    from rubric import Rubric
    from rubric.autograders import PerCriterionGrader
    from rubric.autograders.schemas import PerCriterionOutput
    from rubric.types import Criterion

    reply = chat_choice({"criterion_status": "MET", "explanation": "It keeps to the subject."})
    client = AsyncOpenAI(base_url=engine_url("rubric", reply) + "/v1")

    async def generate(system_prompt: str, user_prompt: str) -> PerCriterionOutput:
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": user_prompt}]
        response = await client.chat.completions.parse(
            model="gpt-4o", messages=messages, response_format=PerCriterionOutput
        )
        return response.choices[0].message.parsed

    grader = PerCriterionGrader(generate_fn=generate)
    criteria = Rubric([Criterion(weight=1.0, requirement="Fits the task.")])

    async def judge(prompt: str, completion: str) -> float:
        return float((await criteria.grade(completion, autograder=grader, query=prompt)).score)

    return pointwise(judge)()


if __name__ == "__main__":
    serve_measurements(prepare)
