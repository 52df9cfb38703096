"""autoevals: its LLM classifier, which has the model call a tool with its reasons and its choice."""

import json

from benchmarks.score.worker import Measure, answer_orders, engine_url, pointwise, verdict

_PROMPT = "Does the response fit the task?\n<task>{{input}}</task>\n<response>{{output}}</response>"


def prepare() -> Measure:
    """A classifier with reasoning, its default, on a plain `AsyncOpenAI` client."""
    from autoevals import LLMClassifier
    from openai import AsyncOpenAI

    arguments = json.dumps({"reasons": "It keeps to the subject.", "choice": "yes"})
    call = {"id": "call_1", "type": "function", "function": {"name": "select_choice", "arguments": arguments}}
    said = verdict("", message={"role": "assistant", "content": None, "tool_calls": [call]}, finish_reason="tool_calls")
    client = AsyncOpenAI(base_url=engine_url("autoevals", said) + "/v1", api_key="none")
    classifier = LLMClassifier("fit", _PROMPT, {"yes": 1.0, "no": 0.0}, model="gpt-4o", client=client)

    async def judge(prompt: str, completion: str) -> float:
        return float((await classifier.eval_async(output=completion, expected=None, input=prompt)).score)

    return pointwise(judge)()


if __name__ == "__main__":
    answer_orders(prepare)
