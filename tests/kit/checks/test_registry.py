"""The check catalogue: honest text passes, faults do not, ramps have slope, and nothing a policy writes hangs it."""

import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from regrade.contracts.checks import Check
from services.kit.checks.base import CheckError, CheckInput
from services.kit.checks.registry import CHECKS, evaluate_check, validate_check
from services.kit.checks.workers import CheckWorkers
from tests.support.builders import ESSAY, PROMPT

GERMAN = "Bäume machen eine Stadt freundlicher, denn ihr Schatten kühlt im Sommer die Straßen und die Häuser."
PERSON = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}}}


@pytest.fixture(scope="module")
def pool() -> Iterator[CheckWorkers]:
    workers = CheckWorkers(timeout_s=60.0)
    yield workers
    workers.close()


def parsed(parameters: dict[str, Any]) -> Check:
    check: Check = TypeAdapter(Check).validate_python(parameters)
    return check


async def value(pool: CheckWorkers, parameters: dict[str, Any], completion: str, reference: str | None = None) -> float:
    return await evaluate_check(parsed(parameters), CheckInput(PROMPT, completion, reference), pool.share())


@pytest.mark.parametrize(
    ("parameters", "good", "bad", "reference"),
    [
        ({"check": "min_words", "words": 40}, ESSAY, "", None),
        ({"check": "max_words", "words": 120}, ESSAY, ESSAY * 4, None),
        ({"check": "min_sentences", "sentences": 3}, ESSAY, "no end", None),
        ({"check": "language", "language": "en"}, ESSAY, GERMAN, None),
        ({"check": "language", "language": "de"}, GERMAN, ESSAY, None),
        ({"check": "not_repetitive"}, ESSAY, "trees are nice " * 40, None),
        ({"check": "no_prompt_copy"}, ESSAY, PROMPT, None),
        ({"check": "on_topic"}, ESSAY, "Bananas grow in bunches.", None),
        ({"check": "matches", "pattern": r"(?i)\bpark\b"}, ESSAY, "No such place.", None),
        ({"check": "ends_properly"}, 'He said "yes."', "It stops in the mid", None),
        ({"check": "boxed_answer"}, r"So \boxed{\frac{1}{2}}.", r"So \boxed{}.", None),
        ({"check": "math_equal"}, r"Thus \boxed{\frac{2}{4}}.", r"Thus \boxed{0.6}.", "1/2"),
        (
            {"check": "verdict_equal", "verdicts": ["right", "wrong"]},
            "At first wrong, in the end right.",
            "right? No: wrong.",
            "right",
        ),
        ({"check": "json_schema", "schema": PERSON}, '{"name": "Ada"}', '{"name": "ada"}', None),
    ],
    ids=lambda v: v.get("check") if isinstance(v, dict) else None,
)
async def test_good_passes_and_bad_fails(
    pool: CheckWorkers, parameters: dict[str, Any], good: str, bad: str, reference: str | None
) -> None:
    assert await value(pool, parameters, good, reference) == 1.0
    assert await value(pool, parameters, bad, reference) == 0.0


@pytest.mark.parametrize(
    ("parameters", "texts"),
    [
        ({"check": "min_words", "words": 40}, [" ".join(ESSAY.split()[:n]) for n in (0, 10, 20, 30, 40)]),
        ({"check": "max_words", "words": 40}, [" ".join(ESSAY.split()[:n]) for n in (80, 70, 60, 50, 40)]),
        ({"check": "min_sentences", "sentences": 4}, ["One. " * n for n in range(5)]),
        ({"check": "on_topic", "min_overlap": 1.0}, ["x", "cities", "cities plant", "cities plant trees"]),
    ],
)
async def test_ramps_have_slope(pool: CheckWorkers, parameters: dict[str, Any], texts: list[str]) -> None:
    values = [await value(pool, parameters, text) for text in texts]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert (values[0], values[-1]) == (0.0, 1.0)


async def test_no_reference_is_no_zero(pool: CheckWorkers) -> None:
    for parameters in ({"check": "math_equal"}, {"check": "verdict_equal", "verdicts": ["a", "b"]}):
        with pytest.raises(CheckError, match="reference"):
            await value(pool, parameters, "a")


async def test_a_pattern_made_to_hang_does_not(pool: CheckWorkers) -> None:
    started = time.process_time()
    assert await value(pool, {"check": "matches", "pattern": "^(a+)+$"}, "a" * 50_000 + "!") == 0.0
    assert time.process_time() - started < 5.0


async def test_what_cannot_be_decided_is_no_zero(pool: CheckWorkers) -> None:
    with pytest.raises(CheckError, match="math_equal: a number is too large") as caught:
        await value(pool, {"check": "math_equal"}, r"\boxed{9^{9^{9^{9^{9}}}}+\sqrt{2}}", r"10^{10^{10^{10}}}+1")
    assert not caught.value.retryable


async def test_a_reference_that_cannot_be_read_is_an_error_that_shows_it(pool: CheckWorkers) -> None:
    with pytest.raises(CheckError, match=r"the reference 'see page 12' cannot be read") as caught:
        await value(pool, {"check": "math_equal"}, r"\boxed{12}", "see page 12")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("completion", "boxed"),
    [
        (r"\boxed{7}", 1.0),
        (r"<think>\boxed{7}</think>", 0.0),
        (r"\boxed{7}</think> I cannot say.", 0.0),
        (r"<think>\boxed{7}", 0.0),
        (r"<think>No.</think> \boxed{7}", 1.0),
    ],
)
async def test_reasoning_holds_no_answer(pool: CheckWorkers, completion: str, boxed: float) -> None:
    """One rule for the three checks of an answer."""
    assert await value(pool, {"check": "boxed_answer"}, completion) == boxed
    assert await value(pool, {"check": "math_equal"}, completion, "7") == boxed
    labelled = completion.replace(r"\boxed{7}", "right")
    assert await value(pool, {"check": "verdict_equal", "verdicts": ["right", "wrong"]}, labelled, "right") == boxed


async def test_json_bomb_is_a_zero(pool: CheckWorkers) -> None:
    assert await value(pool, {"check": "json_schema", "schema": PERSON}, "[" * 100_000) == 0.0


@pytest.mark.parametrize(
    "parameters",
    [
        {"check": "matches", "pattern": "(?=lookahead)"},
        {"check": "matches", "pattern": "("},
        {"check": "json_schema", "schema": {"type": 7}},
        {"check": "json_schema", "schema": {"pattern": "("}},
    ],
)
def test_unusable_parameters_are_told(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a"):
        validate_check(parsed(parameters))


def test_every_check_of_the_contract_has_an_entry() -> None:
    union, _ = get_args(Check)
    assert set(CHECKS) == set(get_args(union))
    for entry in CHECKS.values():
        assert (entry.evaluate is None) != (entry.evaluate_in_worker is None)
        assert entry.title or entry.propose is None
