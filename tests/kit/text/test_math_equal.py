"""Answers of many kinds: what is equal, what is not, and what is an error instead of a verdict.

`math_pairs.jsonl` was written before the code: pairs over the ways in which data sets and policies write answers, and
over public complaints about math-verify, each with the reason for its expected value.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from services.kit.text.math_equal import Undecided, Unreadable, math_equal

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "math_pairs.jsonl").read_text("utf-8").splitlines()]
KINDS = sorted({pair["kind"] for pair in PAIRS})


def value_of(completion: str, reference: str) -> int | str:
    try:
        return int(math_equal(completion, reference))
    except (Unreadable, Undecided):
        return "error"


def boxed(answer: str) -> str:
    return rf"So the answer is \boxed{{{answer}}}."


def test_pairs_of_all_kinds() -> None:
    """At least 97 % right; no verdict is inverted, and none is given where the reference cannot be read."""
    values = [value_of(pair["completion"], pair["reference"]) for pair in PAIRS]
    wrong: list[tuple[Any, ...]] = [
        (pair["reference"], pair["completion"][-60:], pair["expected"], value)
        for pair, value in zip(PAIRS, values, strict=True)
        if value != pair["expected"]
    ]
    assert len(PAIRS) >= 300
    assert len(wrong) <= 0.03 * len(PAIRS), wrong
    assert [row for row in wrong if {row[2], row[3]} == {0, 1}] == []
    assert [row for row in wrong if row[2] == "error"] == []


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("2(3)", "6"), ("-2^2", "-4"), ("2^{3^2}", "512"), ("6/2*3", "9"), ("2 \\cdot -3", "-6"), ("1.5^2", "2.25"),
        ("0.1+0.2", "0.3"), ("|-3|", "3"), ("\\sqrt[3]{27}", "3"), ("\\frac{1}{2}(3)", "1.5"),
        ("5+2\\frac{1}{2}", "7.5"),
        ("\\frac{\\frac12}{3}", "1/6"), ("\\log_{2}(8)", "3"), ("\\ln e", "1"), ("\\sin 30^\\circ", "1/2"),
        ("3!2", "12"),
        ("0.\\overline{3}", "1/3"), ("0.1\\overline{6}", "1/6"), ("\\sum_{k=1}^{4} k", "10"), ("{5 \\choose 2}", "10"),
        ("\\int_0^1 2x dx", "1"), ("\\tan^{-1}(1)", "\\frac{\\pi}{4}"), ("\\frac{7!}{3!4!}", "35"), ("2^-1", "1/2"),
        ("\\max(2,3)", "3"), ("\\gcd(12,18)", "6"), ("\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "-2"),
        ("1/3+1/6", "0.5"),
    ],
)  # fmt: skip
def test_values_are_what_the_notation_means(reference: str, value: str) -> None:
    """Or an error: never another value."""
    assert value_of(boxed(value), reference) in (1, "error")
    assert value_of(boxed(reference), value) == 1
    assert value_of(boxed(f"{value}+1"), reference) in (0, "error")
    assert value_of(boxed(reference), f"{value}+1") == 0
