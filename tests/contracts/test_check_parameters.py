"""The check catalogue's parameters: bounded, named, nothing else."""

from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.builders import check

VALID: list[dict[str, Any]] = [
    {"check": "min_words", "words": 50},
    {"check": "max_words", "words": 500},
    {"check": "min_sentences", "sentences": 3},
    {"check": "language", "language": "en"},
    {"check": "not_repetitive"},
    {"check": "no_prompt_copy"},
    {"check": "on_topic"},
    {"check": "matches", "pattern": "^a"},
    {"check": "ends_properly"},
    {"check": "boxed_answer"},
    {"check": "math_equal"},
    {"check": "verdict_equal", "verdicts": ["yes", "no"]},
    {"check": "json_schema", "schema": {"type": "object"}},
]


@pytest.mark.parametrize("parameters", VALID, ids=lambda p: str(p["check"]))
def test_each_check_is_taken_and_read_back(parameters: dict[str, Any]) -> None:
    made = check("c", parameters)
    assert type(made).model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("parameters", VALID, ids=lambda p: str(p["check"]))
def test_no_check_takes_a_parameter_it_does_not_know(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        check("c", parameters | {"code": "import os"})


@pytest.mark.parametrize(
    "parameters",
    [
        {"check": "python", "code": "1"},
        {"check": "min_words"},
        {"check": "min_words", "words": 0},
        {"check": "min_words", "words": 20_001},
        {"check": "max_words", "words": -1},
        {"check": "min_sentences", "sentences": 1_001},
        {"check": "language", "language": "english"},
        {"check": "not_repetitive", "ngram": 9},
        {"check": "not_repetitive", "min_distinct": 0.0},
        {"check": "no_prompt_copy", "max_copied": 1.0},
        {"check": "on_topic", "min_overlap": 0.0},
        {"check": "on_topic", "min_overlap": float("nan")},
        {"check": "matches", "pattern": ""},
        {"check": "matches", "pattern": "a" * 257},
        {"check": "verdict_equal", "verdicts": ["yes"]},
        {"check": "verdict_equal", "verdicts": ["yes", ""]},
        {"check": "json_schema", "schema": {"enum": ["x" * 9_000]}},
        {"check": "json_schema", "schema": {"const": float("nan")}},
        {"check": "json_schema", "schema": 5},
    ],
    ids=str,
)
def test_parameters_out_of_bounds_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        check("c", parameters)
