"""Structural breaches: what a completion changed of the judge's conversation beside the inside of its own fence.

A prompt mode is any function from a completion to a conversation, an engine any function from a
conversation to what its chat template makes of it; so new modes and engines are held to the same.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import httpx

from services.reward.judge.engine.base import ChatMessages
from tests.support.attack_corpus import special_tokens

Render = Callable[[str], ChatMessages]

_BEGIN = re.compile(r"\[BEGIN ([A-Z]+) ([a-z2-7]{10})\]\n")
_POLICY_TEXT = "RESPONSE"
_BRACKETED = re.compile(r"[^\w\s].*\w.*[^\w\s]")


class Shape(NamedTuple):
    """A text's structure: all of it but the insides of fences round policy text, and how many those are."""

    outside: str
    fences: int
    tokens: int
    """Special tokens of any known chat template within policy text."""


class Template(NamedTuple):
    """A conversation as the engine gets it: the text of its chat template, and the special tokens in it, in order."""

    text: str
    special: tuple[int, ...]


class Engine(Protocol):
    """Applies an engine's chat template and tokenizer."""

    def __call__(self, messages: ChatMessages) -> Template: ...


def shape(text: str) -> Shape:
    """The structure of a text with fences. Codes of fences round policy text are masked: they differ with the text.

    The first opening marker is the service's own, for no policy text stands before it.
    """
    outside: list[str] = []
    inside: list[str] = []
    at = 0
    while (opening := _BEGIN.search(text, at)) is not None:
        label, code = opening.groups()
        closing = f"\n[END {label} {code}]"
        end = text.find(closing, opening.end() - 1)
        if end < 0:
            break
        if label == _POLICY_TEXT:
            outside += (text[at : opening.start()], f"<{label}>")
            inside.append(text[opening.end() : end])
        else:
            outside.append(text[at : end + len(closing)])
        at = end + len(closing)
    outside.append(text[at:])
    return Shape("".join(outside), len(inside), sum(map(_special_in, inside)))


def breaches(render: Render, honest: str, attacked: str, engine: Engine | None = None) -> tuple[str, ...]:
    """What the attacked text changed of the structure that the honest one leaves; empty when all is well."""
    wanted, got = render(honest), render(attacked)
    if [message["role"] for message in wanted] != [message["role"] for message in got]:
        return ("roles",)
    breaches: list[str] = []
    for before, after in zip(wanted, got, strict=True):
        breaches += _differences(before["content"], after["content"])
    if engine is not None:
        template, template_attacked = engine(wanted), engine(got)
        breaches += [f"template: {name}" for name in _differences(template.text, template_attacked.text)]
        if template.special != template_attacked.special:
            breaches.append("special tokens of the engine")
    return tuple(dict.fromkeys(breaches))


def _differences(honest: str, attacked: str) -> list[str]:
    wanted, got = shape(honest), shape(attacked)
    differences = []
    if wanted.fences != got.fences:
        differences.append("fences")
    if wanted.outside != got.outside:
        differences.append("text outside the fences")
    if wanted.tokens != got.tokens:
        differences.append("control tokens")
    return differences


def _special_in(text: str) -> int:
    return sum(text.count(token) for tokens in special_tokens().values() for token in tokens)


class VllmTokens:
    """The chat template and tokenizer of a vLLM server."""

    def __init__(self, client: httpx.Client, model: str) -> None:
        """`client` has the server as its base URL."""
        self._client = client
        self._model = model
        self._special: dict[int, bool] = {}

    def __call__(self, messages: ChatMessages) -> Template:
        """The templated text, and its special tokens."""
        tokens = self._post("/tokenize", {"messages": list(messages)})["tokens"]
        text = str(self._post("/detokenize", {"tokens": tokens})["prompt"])
        return Template(text, tuple(token for token in tokens if self._is_special(token)))

    def _is_special(self, token: int) -> bool:
        """A word within brackets that is one token in the middle of a text: no merging makes that of prose."""
        if token not in self._special:
            spelling = str(self._post("/detokenize", {"tokens": [token]})["prompt"])
            bracketed = _BRACKETED.fullmatch(spelling) is not None
            self._special[token] = bracketed and token in self._parsed(f"a{spelling}a")
        return self._special[token]

    def _parsed(self, text: str) -> Any:
        return self._post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]

    def _post(self, path: str, body: dict[str, object]) -> Any:
        answer = self._client.post(path, json={"model": self._model} | body)
        answer.raise_for_status()
        return answer.json()


class LlamaCppTokens:
    """The chat template and tokenizer of a llama.cpp server."""

    def __init__(self, client: httpx.Client) -> None:
        """`client` has the server as its base URL."""
        self._client = client
        self._special: dict[int, bool] = {}

    def __call__(self, messages: ChatMessages) -> Template:
        """The templated text, and its special tokens."""
        text = str(self._post("/apply-template", {"messages": list(messages)})["prompt"])
        body = {"content": text, "parse_special": True, "with_pieces": True}
        tokens = self._post("/tokenize", body)["tokens"]
        return Template(text, tuple(token["id"] for token in tokens if self._is_special(token["id"], token["piece"])))

    def _is_special(self, number: int, piece: str | Sequence[int]) -> bool:
        """A special token's spelling is that token, unless it is taken as mere text."""
        if not isinstance(piece, str) or piece.isspace() or piece.strip().isalnum():
            return False
        if number not in self._special:
            self._special[number] = self._tokens(piece, special=True) == [number] != self._tokens(piece, special=False)
        return self._special[number]

    def _tokens(self, text: str, *, special: bool) -> Any:
        return self._post("/tokenize", {"content": text, "parse_special": special})["tokens"]

    def _post(self, path: str, body: dict[str, object]) -> Any:
        answer = self._client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()
