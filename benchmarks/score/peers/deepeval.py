"""deepeval: G-Eval with given steps, on its built-in GPT model, weighted by the log-probabilities of the score.

With one HTTP client for all calls, which deepeval allows: by default it opens one per call, at seven times the cost.
"""

import os

from benchmarks.score.worker import Measure, chat_choice, engine_url, pointwise, serve_measurements

os.environ |= {"DEEPEVAL_TELEMETRY_OPT_OUT": "YES", "DEEPEVAL_UPDATE_WARNING_OPT_IN": "NO", "OPENAI_API_KEY": "none"}

_STEPS = ["Read the input.", "Decide how well the actual output fits it, from 0 to 10."]


def prepare() -> Measure:
    """A new metric for each item, because deepeval stores the result in the metric."""
    from deepeval.metrics import GEval
    from deepeval.models import OpenAIModel
    from deepeval.test_case import LLMTestCase, SingleTurnParams
    from openai import DefaultAsyncHttpxClient

    top = [{"token": str(n), "logprob": -0.5 - abs(n - 6), "bytes": None} for n in range(11)]
    reply = chat_choice(
        {"reason": "It keeps to the subject.", "score": 6}, logprobs={"content": [{**top[6], "top_logprobs": top}]}
    )
    model = OpenAIModel(
        model="gpt-4o",
        base_url=engine_url("deepeval", reply) + "/v1",
        api_key="none",
        async_http_client=DefaultAsyncHttpxClient(),
    )
    params = [SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT]

    async def judge(prompt: str, completion: str) -> float:
        metric = GEval(name="fit", evaluation_params=params, evaluation_steps=_STEPS, model=model)
        case = LLMTestCase(input=prompt, actual_output=completion)
        return float(await metric.a_measure(case, _show_indicator=False))

    return pointwise(judge)()


if __name__ == "__main__":
    serve_measurements(prepare)
