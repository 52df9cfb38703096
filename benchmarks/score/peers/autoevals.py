"""autoevals: its LLM classifier, for which the model calls a tool with reasons and a choice."""

import json

from benchmarks.score.worker import Measure, chat_choice, engine_url, pointwise, serve_measurements

_PROMPT = "Does the response fit the task?\n<task>{{input}}</task>\n<response>{{output}}</response>"


def prepare() -> Measure:
    """A classifier with reasoning, its default, on a plain `AsyncOpenAI` client."""
    from autoevals import LLMClassifier
    from openai import AsyncOpenAI

    arguments = json.dumps({"reasons": "It keeps to the subject.", "choice": "yes"})
    call = {"id": "call_1", "type": "function", "function": {"name": "select_choice", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    reply = chat_choice("", message=message, finish_reason="tool_calls")
    client = AsyncOpenAI(base_url=engine_url("autoevals", reply) + "/v1", api_key="none")
    classifier = LLMClassifier("fit", _PROMPT, {"yes": 1.0, "no": 0.0}, model="gpt-4o", client=client)

    async def judge(prompt: str, completion: str) -> float:
        return float((await classifier.eval_async(output=completion, expected=None, input=prompt)).score)

    return pointwise(judge)()


if __name__ == "__main__":
    serve_measurements(prepare)
