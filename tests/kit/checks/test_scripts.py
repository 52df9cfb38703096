"""Checks measure in the units of the text's script, so that an honest text passes in any of them."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from regrade.contracts.checks import Check
from services.kit.checks.base import CheckInput
from services.kit.checks.registry import evaluate_check
from services.kit.checks.workers import CheckWorkers
from services.kit.text.segments import words
from tests.support.languages import OFF_TOPIC, PARAGRAPHS


async def _value(parameters: dict[str, Any], completion: str, prompt: str = "") -> float:
    check: Check = TypeAdapter(Check).validate_python(parameters)
    return await evaluate_check(check, CheckInput(prompt, completion, None), CheckWorkers().share())


@pytest.mark.parametrize("language", PARAGRAPHS)
async def test_an_honest_text_passes_and_a_damaged_one_does_not(language: str) -> None:
    text = PARAGRAPHS[language]
    count = len(words(text))
    passed: list[dict[str, Any]] = [
        {"check": "min_sentences", "sentences": 4},
        {"check": "not_repetitive"},
        {"check": "ends_properly"},
    ]
    lengths: list[dict[str, Any]] = [{"check": "min_words", "words": 11}, {"check": "max_words", "words": 40}]
    for parameters in (*passed, *lengths):
        assert await _value(parameters, text) == 1.0, parameters
    assert await _value({"check": "min_words", "words": 2 * count}, text) == pytest.approx(0.5)
    assert await _value({"check": "max_words", "words": count}, f"{text} {text}") == 0.0
    assert await _value({"check": "not_repetitive"}, f"{text} " * 5) < 0.2
    assert await _value({"check": "no_prompt_copy"}, f"{text} " * 3, text) < 0.5
    assert await _value({"check": "no_prompt_copy"}, text, "An unrelated prompt.") == 1.0


@pytest.mark.parametrize("language", OFF_TOPIC)
async def test_off_topic_is_worth_less(language: str) -> None:
    """The prompt repeats a sentence of the text, as an essay's question does."""
    text, prompt = PARAGRAPHS[language], PARAGRAPHS[language].split("。")[0].split("।")[0].split(".")[0]
    assert await _value({"check": "on_topic"}, text, prompt) == 1.0
    assert await _value({"check": "on_topic"}, OFF_TOPIC[language], prompt) < 1.0
