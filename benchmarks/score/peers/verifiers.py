"""verifiers 0.4: a judge of `verifiers.v1` that reads a verdict from the reply, called as a task's reward does."""

import os

from benchmarks.score.worker import Measure, chat_choice, engine_url, pointwise, serve_measurements

os.environ["BENCH_API_KEY"] = "none"

_PROMPT = "Question: {question}\n\nResponse: {response}\n\nDoes the response answer the question? Reply yes or no."


def prepare() -> Measure:
    """One judge for all calls; verifiers opens an HTTP client for each call."""
    from verifiers.v1.judge import Judge, JudgeConfig, judge_verdict

    url = engine_url("verifiers", chat_choice("yes")) + "/v1"
    judges = Judge(JudgeConfig(base_url=url, api_key_var="BENCH_API_KEY", model="gpt-4o"))
    judges.prompt = _PROMPT

    async def judge(prompt: str, completion: str) -> float:
        reply = await judges.evaluate(question=prompt, response=completion)
        return float(judge_verdict(reply.text, ("no", "yes")) == "yes")

    return pointwise(judge)()


if __name__ == "__main__":
    serve_measurements(prepare)
