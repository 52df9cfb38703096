"""JSON in the answers of models that wrap it: strictly one object, or the text as it is."""

import pytest

from services.kit.http.chat import json_in

OBJECT = '{"a": {"b": "x } y"}}'


@pytest.mark.parametrize(
    "text",
    [
        OBJECT,
        f"\n{OBJECT}\n",
        f"```json\n{OBJECT}\n```",
        f"```\n{OBJECT}\n```\n",
        f"Here it is:\n```json\n{OBJECT}\n```\nAnything else?",
        f"Here it is: {OBJECT}\nAnything else?",
    ],
)
def test_one_object_is_taken_out_of_what_surrounds_it(text: str) -> None:
    assert json_in(text) == OBJECT


@pytest.mark.parametrize(
    "text", ["", "no object", f"```\n{OBJECT}\n```\nor\n```\n{OBJECT}\n```", f"```json\n{OBJECT}", "}{"]
)
def test_anything_else_is_left_to_the_schema(text: str) -> None:
    assert json_in(text) in (text, "")
