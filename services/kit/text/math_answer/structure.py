"""The kinds of answers, and the reading of a whole text as one of them."""

import re
from dataclasses import dataclass
from typing import Literal

from services.kit.text.math_answer.expressions import Expression
from services.kit.text.math_answer.units import Unit

Bracket = Literal["", "{}", "()", "[]", "(]", "[)"]


@dataclass(frozen=True)
class Words:
    """An answer in words, in lower case."""

    text: str


@dataclass(frozen=True)
class Choice:
    """A lettered choice, perhaps with its text."""

    letter: str


@dataclass(frozen=True)
class Quantity:
    """A value with a unit or a counted thing."""

    value: Expression
    unit: Unit


@dataclass(frozen=True)
class Percentage:
    """A value in percent."""

    value: Expression


@dataclass(frozen=True)
class Group:
    """Several answers: without brackets or in braces without order; else a tuple or an interval."""

    bracket: Bracket
    items: tuple["Answer", ...]


@dataclass(frozen=True)
class Interval:
    """A part of the real line; a point where both ends are the same."""

    lower: Expression
    upper: Expression
    is_left_open: bool
    is_right_open: bool


@dataclass(frozen=True)
class Region:
    """A union of intervals."""

    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class NumberSet:
    """The integers (Z), the natural (N), rational (Q) or complex (C) numbers."""

    letter: str


@dataclass(frozen=True)
class Named:
    """A value and what it is the value of."""

    name: str
    value: "Answer"


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality: `lhs sign rhs`; ">" and ">=" are turned around."""

    sign: Literal["=", "<", "<=", "!="]
    lhs: Expression
    rhs: Expression


@dataclass(frozen=True)
class Congruence:
    """`lhs` is `rhs` modulo `modulus`."""

    lhs: Expression
    rhs: Expression
    modulus: int


@dataclass(frozen=True)
class Clock:
    """A time of day in seconds; within half a day where `half` says which."""

    seconds: int
    half: Literal["", "am", "pm"]
    ratio: Expression | None
    """The same text as a ratio."""


@dataclass(frozen=True)
class Ratio:
    """The parts of `a:b:c`."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Based:
    """Digits with the base of their number system."""

    digits: str
    base: int


Answer = (
    Expression
    | Words
    | NumberSet
    | Choice
    | Quantity
    | Percentage
    | Group
    | Region
    | Named
    | Relation
    | Congruence
    | Clock
    | Ratio
    | Based
)

_OPENING, _CLOSING = (
    frozenset({"(", "[", "{", r"\{", r"\langle", r"\begin"}),
    frozenset({")", "]", "}", r"\}", r"\rangle", r"\end"}),
)
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])|\d+|[a-zA-Z]+|.", re.DOTALL)


def split_top(text: str, separators: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside of all brackets, and the separators.

    A comma within a number with thousands separators is none.
    """
    parts, signs, depth, start = [], [], 0, 0
    for token in _TOKEN.finditer(text):
        if token.group() in _OPENING:
            depth += 1
        elif token.group() in _CLOSING:
            depth -= 1
        elif depth == 0 and token.start() >= start and (separator := separators.match(text, token.start())):
            parts.append(text[start : token.start()].strip())
            signs.append(separator.group().strip())
            start = separator.end()
    return [*parts, text[start:].strip()], signs
