"""openevals: its LLM-as-judge with a continuous score, on a plain `AsyncOpenAI` client."""

import os

from benchmarks.score.worker import Measure, chat_choice, engine_url, pointwise, serve_measurements

os.environ["LANGSMITH_TRACING"] = "false"

_PROMPT = (
    "Rate how well the response fits the task, from 0 to 1.\n<task>{inputs}</task>\n<response>{outputs}</response>"
)


def prepare() -> Measure:
    """The judge with a reasoned JSON reply, its default."""
    from openai import AsyncOpenAI
    from openevals.llm import create_async_llm_as_judge

    answer = chat_choice({"reasoning": "It keeps to the subject. Thus, the score should be: 0.6.", "score": 0.6})
    client = AsyncOpenAI(base_url=engine_url("openevals", answer) + "/v1", api_key="none")
    evaluator = create_async_llm_as_judge(prompt=_PROMPT, judge=client, model="gpt-4o", continuous=True)

    async def judge(prompt: str, completion: str) -> float:
        return float((await evaluator(inputs=prompt, outputs=completion))["score"])

    return pointwise(judge)()


if __name__ == "__main__":
    serve_measurements(prepare)
