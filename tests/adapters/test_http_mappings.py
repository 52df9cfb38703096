"""The pure mappings of the trainers' HTTP formats: rendered prompts, end tokens, rows of Responses, metrics."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from regrade.adapters import nemo_gym, openrlhf, slime
from regrade.adapters.chat import completion_after_prompt, parse_prompt, split_prompt
from regrade.adapters.results import METRIC_NAMES, metrics_of
from regrade.contracts import ErrorCode, ItemError, ScoreItem
from regrade.control_tokens import strip_end_tokens
from tests.support.builders import result

CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy trees?<|im_end|>\n<|im_start|>assistant\n"
LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy trees?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = "<bos><start_of_turn>user\nWhy trees?<end_of_turn>\n<start_of_turn>model\n"


def _turns(content: Any) -> Any:
    return content if isinstance(content, str) else [(turn["role"], turn["content"]) for turn in content]


@pytest.mark.parametrize(("prompt", "turns"), [
    (CHATML, [("system", "Be brief."), ("user", "Why trees?")]),
    (LLAMA, [("system", "Be brief."), ("user", "Why trees?")]),
    (GEMMA, [("user", "Why trees?")]),
    ("Why trees?", "Why trees?"),
    ("Explain this: <|im_start|>user\nhello<|im_end|>", "Explain this: <|im_start|>user\nhello<|im_end|>"),
    ("", ""),
])  # fmt: skip
def test_a_rendered_prompt_is_its_turns(prompt: str, turns: Any) -> None:
    assert _turns(parse_prompt(prompt)) == turns


@pytest.mark.parametrize(("written", "stripped"), [
    ("Shade.<|im_end|>", "Shade."), ("Shade.</s>", "Shade."), ("Shade.<|eot_id|><|pad|><|pad|>\n", "Shade."),
    ("Shade.<end_of_turn>\n<eos>", "Shade."), ("Shade.", "Shade."), ("a <|im_end|> b", "a <|im_end|> b"),
    ("Shade.<b>", "Shade.<b>"), ("", ""), ("<|im_end|>", ""),
])  # fmt: skip
def test_only_end_tokens_are_removed(written: str, stripped: str) -> None:
    assert strip_end_tokens(written) == stripped


@pytest.mark.parametrize(("query", "prompt", "completion"), [
    ("Why? Shade.", "Why? ", "Shade."),
    ("<s>Why? Shade.", "Why? ", "Shade."),
    ("Why ?Shade.", "Why?", "Shade."),
    (f"{'y' * 250}?Shade.", f"{'x' * 50}{'y' * 300}?", "Shade."),
    ("Shade.", "", "Shade."),
    ("something else", "Why?", None),
    ("Why", "Why?", None),
])  # fmt: skip
def test_the_completion_is_what_follows_the_prompt(query: str, prompt: str, completion: str | None) -> None:
    assert completion_after_prompt(query, prompt) == completion


def test_hostile_text_costs_linear_time() -> None:
    started = time.thread_time()
    for text in ("<|a|>" * 40_000 + "x", " " * 200_000 + "x", "<" * 200_000, "<|im_start|>user\n" * 10_000):
        strip_end_tokens(text)
        parse_prompt(text)
        completion_after_prompt(text, text[:-1] + "y")
    assert time.thread_time() - started < 5.0


def test_a_conversation_is_split_before_the_policys_first_turn() -> None:
    prompt, rest = split_prompt([{"role": "user", "content": "a"}, {"role": "model", "content": "b"}])
    assert (_turns(prompt), _turns(rest)) == ([("user", "a")], [("model", "b")])


def test_metrics_have_the_same_names_for_every_outcome() -> None:
    error = ItemError(code=ErrorCode.JUDGE_MALFORMED, message="m", retryable=True)
    failed = result("0" * 64).model_copy(update={"reward": None, "raw": None, "error": error})
    assert tuple(metrics_of(result("0" * 64))) == tuple(metrics_of(failed)) == METRIC_NAMES
    assert metrics_of(failed)["regrade_scored"] == 0.0


def test_slimes_log_gets_the_mean_metrics() -> None:
    rewards = [{"score": 0.5, **dict.fromkeys(METRIC_NAMES, value)} for value in (1.0, 3.0)]
    extra: dict[str, Any] = {}
    assert not slime.log_rollout(0, None, [SimpleNamespace(reward=reward) for reward in rewards], extra, 1.0)
    assert extra == {f"rollout/{name}": 2.0 for name in METRIC_NAMES}
    assert not slime.log_rollout(0, None, [SimpleNamespace(reward=0.5)], extra, 1.0)


def test_a_nemo_gym_rollout_with_tools() -> None:
    request = nemo_gym.VerifyRequest.model_validate({
        "responses_create_params": {"input": "Why?", "instructions": "Be brief."},
        "response": {"output": [
            {"type": "reasoning", "summary": [{"text": "hidden"}]},
            {"type": "function_call", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "output": "a tree"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Shade."}]},
        ]},
        "_ng_rollout_index": 4,
    })  # fmt: skip
    item = ScoreItem.model_validate(nemo_gym.to_item(request)).model_dump()
    assert item["id"] == "rollout-4"
    assert _turns(item["prompt"]) == [("system", "Be brief."), ("user", "Why?")]
    assert _turns(item["completion"]) == [("assistant", "look({})"), ("tool", "a tree"), ("assistant", "Shade.")]


@pytest.mark.parametrize(("row", "reference"), [
    ({"expected_answer": "7", "answer": "no"}, "7"),
    ({"ground_truth": "7"}, "7"),
    ({"verifier_metadata": {"answer": "7"}}, "7"),
    ({"question": "7", "verifier_metadata": None}, None),
])  # fmt: skip
def test_a_nemo_gym_row_has_its_reference(row: dict[str, Any], reference: str | None) -> None:
    request = nemo_gym.VerifyRequest.model_validate(
        {"responses_create_params": {"input": "Why?"}, "response": {"output": []}} | row
    )
    assert nemo_gym.to_item(request)["reference"] == reference


def test_openrlhf_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        openrlhf.OpenRLHFRequest(query=["a"], prompts=["a"], labels=["x", "y"])
