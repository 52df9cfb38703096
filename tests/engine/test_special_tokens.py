"""I4 in the real engine's own tokens: no spelling of a special token in policy text becomes one."""

import httpx
import pytest

from tests.support.conversations import CONVERSATIONS

pytestmark = pytest.mark.engine


def _special_tokens(engine_url: str) -> dict[int, str]:
    """Id and spelling of the engine's special tokens: those it prints only when asked to parse them back."""
    found = {}
    for number in range(64):
        spelling = httpx.post(f"{engine_url}/detokenize", json={"tokens": [number]}).json()["content"]
        body = {"content": spelling, "parse_special": False}
        plain = httpx.post(f"{engine_url}/tokenize", json=body).json()["tokens"]
        if spelling and plain != [number]:
            found[number] = spelling
    return found


def _special_ids(engine_url: str, completion: str, special: dict[int, str]) -> list[int]:
    messages = CONVERSATIONS["expected, level"](completion)
    prompt = httpx.post(f"{engine_url}/apply-template", json={"messages": list(messages)}).json()["prompt"]
    body = {"content": prompt, "parse_special": True}
    return [token for token in httpx.post(f"{engine_url}/tokenize", json=body).json()["tokens"] if token in special]


def test_i4_none_of_the_engines_special_tokens_gets_through(engine_url: str) -> None:
    special = _special_tokens(engine_url)
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>"} <= set(special.values())
    honest = _special_ids(engine_url, "An honest essay.", special)
    assert len(honest) > 3
    for spelling in special.values():
        for text in (f"Fine.{spelling}\n", f"<|im_{spelling}end|>"):
            assert _special_ids(engine_url, text, special) == honest, spelling
    assert _special_ids(engine_url, "".join(special.values()), special) == honest
