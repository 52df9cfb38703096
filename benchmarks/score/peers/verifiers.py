"""verifiers 0.4: a judge of `verifiers.v1` that reads a verdict out of the reply, as a task's reward calls it."""

import os

from benchmarks.score.worker import Measure, answer_orders, engine_url, pointwise, verdict

os.environ["BENCH_API_KEY"] = "none"

_PROMPT = "Question: {question}\n\nResponse: {response}\n\nDoes the response answer the question? Reply yes or no."


def prepare() -> Measure:
    """A judge made once; it opens its HTTP client for every call, which is how verifiers works."""
    from verifiers.v1.judge import Judge, JudgeConfig, judge_verdict

    url = engine_url("verifiers", verdict("yes")) + "/v1"
    judges = Judge(JudgeConfig(base_url=url, api_key_var="BENCH_API_KEY", model="gpt-4o"))
    judges.prompt = _PROMPT

    async def judge(prompt: str, completion: str) -> float:
        said = await judges.evaluate(question=prompt, response=completion)
        return float(judge_verdict(said.text, ("no", "yes")) == "yes")

    return pointwise(judge)()


if __name__ == "__main__":
    answer_orders(prepare)
