"""The one reader of prompts, completions and references: every shape that trainers, datasets and SDKs give them."""

import dataclasses
import enum
from collections.abc import Callable, Generator
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from regrade.contracts import Message, ScoreItem
from regrade.contracts.content import read_completion, read_prompt, read_reference, turn_role


class Role(str, enum.Enum):  # noqa: UP042 - as libraries have them
    USER = "user"


class Function(BaseModel):
    name: str
    arguments: str


class Call(BaseModel):
    function: Function


class Turn(BaseModel):
    role: str
    content: Any = None
    tool_calls: list[Call] | None = None


@dataclasses.dataclass
class Point:
    x: int


class Hostile:
    """A value of a stranger's type, whose attributes and text fail."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (np.str_("plain"), "plain"),
        (None, ""),
        (float("nan"), ""),
        ([None, "a"], "a"),
        (["Look:", {"type": "image"}], "Look:\n[image]"),
        ([{"type": "text", "text": "Why?"}, IMAGE], "Why?\n[image]"),
        (({"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}), "a\nb"),
        (np.array([{"type": "text", "text": "a"}], dtype=object), "a"),
        ({"type": "text", "text": "one part"}, "one part"),
        ([{"type": "text", "text": {"value": "nested"}}], "nested"),
        ([{"type": "refusal", "refusal": "I cannot."}], "I cannot."),
        ([{"type": "thinking", "thinking": "hidden"}, {"type": "text", "text": "seen"}], "seen"),
        ([{"type": "input_audio"}, {"type": "video"}, {"type": "input_file"}], "[audio]\n[video]\n[file]"),
        ([{"image": "a.png"}, {"text": "b"}], "[image]\nb"),
        ([{"type": "hologram", "data": 1}], "[hologram]"),
        ([{"type": "tool_use", "name": "look", "input": {"at": "x"}}], 'look({"at": "x"})'),
        ([{"type": "tool_result", "content": [{"type": "text", "text": "seen"}]}], "seen"),
        ([SimpleNamespace(type="text", text="an object")], "an object"),
        ({"temperature": 21, "città": "Roma"}, '{"temperature": 21, "città": "Roma"}'),
        ({"n": np.int64(3), "a": np.array([1.5])}, '{"n": 3, "a": [1.5]}'),
        ({"p": Point(1), "s": {7}}, '{"p": {"x": 1}, "s": [7]}'),
        ([1, 2.5], "1\n2.5"),
        (True, "true"),
        (np.float64(0.5), "0.5"),
    ],
)  # fmt: skip
def test_the_content_of_a_turn(content: Any, text: str) -> None:
    assert read_prompt([{"role": "user", "content": content}]) == [{"role": "user", "content": text}]
    assert read_prompt((SimpleNamespace(role="user", content=content),)) == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("turn", "role", "text"),
    [
        ({"content": "x"}, "assistant", "x"),
        ({"role": "developer", "content": "x", "name": "me"}, "system", "x"),
        ({"role": "critic", "content": "x"}, "assistant", "x"),
        ({"role": Role.USER, "content": "x"}, "user", "x"),
        ({"role": "tool", "content": {"ok": True}, "tool_call_id": "1"}, "tool", '{"ok": true}'),
        ({"role": "function", "name": "f", "content": "x"}, "tool", "x"),
        ({"from": "human", "value": "x"}, "user", "x"),
        ({"content": "x", "tool_calls": [None, {}, ""]}, "assistant", "x"),
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
         "assistant", "f({})"),
        ({"role": "assistant", "tool_calls": np.array([{"name": "f", "args": {"n": np.int64(1)}}], dtype=object)},
         "assistant", 'f({"n": 1})'),
        ({"role": "assistant", "tool_calls": {"function": {"name": "f"}}}, "assistant", "f()"),
        ({"content": "a", "function_call": {"name": "f", "arguments": "1"}}, "assistant", "a\nf(1)"),
        (Turn(role="assistant", tool_calls=[Call(function=Function(name="f", arguments="{}"))]), "assistant", "f({})"),
        (Message(role="user", content="x"), "user", "x"),
        (SimpleNamespace(type="human", content="x"), "user", "x"),
        ({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}, "assistant", "x"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "assistant", "f({})"),
        ({"type": "function_call_output", "output": "x"}, "tool", "x"),
        ({"type": "function_call_output", "output": [{"type": "input_text", "text": "x"}]}, "tool", "x"),
        ({"type": "reasoning", "summary": []}, "assistant", ""),
    ],
    ids=str,
)  # fmt: skip
def test_a_turn_of_a_completion(turn: Any, role: str, text: str) -> None:
    for turns in ([turn], (turn,), iter([turn]), np.array([turn], dtype=object)):
        assert read_completion(turns) == [{"role": role, "content": text}]
    assert turn_role(turn, "assistant") == role


def test_turns_may_be_pairs() -> None:
    pairs = [("system", "Be brief."), ["human", "Why?"]]
    assert read_prompt(pairs) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def test_a_role_that_is_missing_is_that_of_its_place() -> None:
    assert read_prompt([{"content": "x"}]) == [{"role": "user", "content": "x"}]
    assert read_prompt({"role": "user", "content": "one turn"}) == [{"role": "user", "content": "one turn"}]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "None: give a text"),
        (5, "int 5: give a text"),
        (float("nan"), "float nan"),
        (b"bytes", "bytes b'bytes'"),
        ([], r"list \[\] without turns"),
        ({}, "dict {}"),
        ({"text": "x"}, "dict {'text': 'x'}"),
        ({"x", "y"}, "set"),
        (["x"], "turn 0 is str 'x'"),
        ([{"role": "user", "content": "x"}, 5], "turn 1 is int 5"),
        ([[{"role": "user", "content": "x"}]], "turn 0 is list"),
        ([{"a": 1}], "turn 0 is dict {'a': 1}"),
        ([("a", "x")], r"turn 0 is tuple \('a', 'x'\)"),
        (np.array([1.0]), "turn 0 is"),
        (np.array(5), "ndarray"),
        ([{"role": "user", "content": b"x"}], "content of bytes b'x': decode it"),
        ([{"role": "user", "content": [b"x"]}], "bytes"),
        ([{"role": "user", "content": "x"}] * 300, "300 turns; 256 are accepted"),
        (({"role": "user", "content": "x"} for _ in range(300)), "more than 256 turns"),
        ("a\ud83d", r"character 1 is a lone surrogate, U\+D83D"),
        ([{"role": "user", "content": "\udc00"}], "lone surrogate"),
        (Hostile(), "Hostile cannot be read"),
        ([Hostile()], "Hostile|list cannot be read"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_read_says_so(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_prompt(value)
    if not isinstance(value, Generator):  # one has been read
        with pytest.raises(ValueError, match=problem):
            read_completion(value)
        with pytest.raises(ValidationError):
            ScoreItem(prompt="p", completion=value)


def test_a_value_that_holds_itself_is_refused() -> None:
    ring: dict[str, Any] = {"type": "tool_result"}
    ring["content"] = [ring]
    for content in (ring, {"a": ring}):
        with pytest.raises(ValueError, match=r"nested|JSON"):
            read_prompt([{"role": "tool", "content": content}])


def test_a_completion_is_cut_and_a_prompt_is_not() -> None:
    long = "x" * 200_001
    assert read_completion(long) == long[:-1]
    assert read_completion([{"content": long}]) == [{"role": "assistant", "content": long[:-1]}]
    for prompt in (long, [{"content": long}]):
        with pytest.raises(ValueError, match="200001 characters; 200000 are accepted"):
            read_prompt(prompt)


class NAType:
    """As pandas' null is called."""


@pytest.mark.parametrize(
    ("label", "reference"),
    [
        ("5", "5"), (" 5", " 5"), (5, "5"), (-3, "-3"), (10**30, str(10**30)), (0.1, "0.1"),
        (5.0, "5.0"), (True, "True"),
        (np.int64(5), "5"), (np.float32(0.1), "0.1"), (np.float64(2.5), "2.5"), (np.bool_(True), "True"),
        (np.array(7), "7"),
        (np.str_("x"), "x"), (Decimal("1.50"), "1.50"), (Fraction(1, 3), "1/3"), (Role.USER, "user"),
        (None, None), ("", None), (" \n", None), (float("nan"), None), (np.float32("nan"), None),
        (Decimal("NaN"), None),
        (Decimal("sNaN"), None), (NAType(), None),
    ],
    ids=lambda value: f"{type(value).__name__}-{value!s:.12}",
)  # fmt: skip
def test_a_label_as_a_reference(label: Any, reference: str | None) -> None:
    assert read_reference(label) == reference
    assert ScoreItem(prompt="p", completion="c", reference=label).reference == reference


@pytest.mark.parametrize(
    "label",
    [["5"], [], ("5",), {"target": "5"}, {}, {"5"}, b"5", np.array(["5"]), np.array([5]), 2 + 3j, object(), Hostile(),
     "x" * 200_001, "\ud83d", Point(5), range(3)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_label_that_is_no_reference_names_its_type(label: Any) -> None:
    with pytest.raises(ValueError, match="characters|surrogate" if isinstance(label, str) else type(label).__name__):
        read_reference(label)


_FIELDS = "role content type text tool_calls function name arguments value image output x".split()  # noqa: SIM905
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud83d"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("read", [read_prompt, read_completion, read_reference])
@given(value=_JSON)
def test_anything_is_read_or_refused_with_a_value_error(read: Callable[[Any], Any], value: Any) -> None:
    try:
        content = read(value)
    except ValueError:
        return
    field = read.__name__.removeprefix("read_")
    item = ScoreItem.model_validate({"prompt": "p", "completion": "c"} | {field: value})
    assert item.model_dump()[field] == (content if isinstance(content, str | None) else tuple(content))
