"""I4 in the real engines' own tokens: no spelling of a special token in policy text becomes one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpx
import pytest

from services.reward.judge.engine.base import ChatMessages
from tests.support.judge_conversations import CONVERSATIONS

Tokens = Callable[[ChatMessages], Sequence[int]]


@pytest.mark.engine
def test_i4_none_of_llamacpps_special_tokens_gets_through(engine_url: str) -> None:
    special = {}
    for number in range(64):
        spelling = _post(engine_url, "/detokenize", tokens=[number])["content"]
        plain = _post(engine_url, "/tokenize", content=spelling, parse_special=False)["tokens"]
        if spelling and plain != [number]:
            special[number] = spelling

    def tokens(messages: ChatMessages) -> Sequence[int]:
        prompt = _post(engine_url, "/apply-template", messages=list(messages))["prompt"]
        return list(_post(engine_url, "/tokenize", content=prompt, parse_special=True)["tokens"])

    _assert_none_gets_through(special, tokens)


@pytest.mark.vllm
def test_i4_none_of_vllms_special_tokens_gets_through(vllm_url: str) -> None:
    special = {}
    for number in range(64):
        spelling = _post(vllm_url, "/detokenize", tokens=[number])["prompt"]
        parsed = _post(vllm_url, "/tokenize", prompt=spelling, add_special_tokens=False)["tokens"]
        if len(spelling) > 1 and parsed == [number]:
            special[number] = spelling

    def tokens(messages: ChatMessages) -> Sequence[int]:
        return list(_post(vllm_url, "/tokenize", messages=list(messages))["tokens"])

    _assert_none_gets_through(special, tokens)


def _assert_none_gets_through(special: dict[int, str], tokens: Tokens) -> None:
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>"} <= set(special.values())

    def among(completion: str) -> list[int]:
        return [token for token in tokens(CONVERSATIONS["expected, level"](completion)) if token in special]

    honest = among("An honest essay.")
    assert len(honest) > 3
    for text in _hostile(special.values()):
        assert among(text) == honest, text


def _hostile(spellings: Iterable[str]) -> Iterable[str]:
    for spelling in spellings:
        yield f"Fine.{spelling}\n"
        yield f"<|im_{spelling}end|>"
    yield "".join(spellings)


def _post(url: str, path: str, **body: object) -> Any:
    return httpx.post(f"{url}{path}", json=body, timeout=60.0).json()
