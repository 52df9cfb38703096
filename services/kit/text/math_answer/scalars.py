"""The reading of an answer that is one value: a number with or without a unit, a time, a word, a choice."""

import re
from collections.abc import Callable

from services.kit.text.math_answer.errors import Unreadable
from services.kit.text.math_answer.expressions import Expression, read_expression
from services.kit.text.math_answer.notation import DOLLAR, END, PERCENT, TEXT
from services.kit.text.math_answer.structure import (
    Answer,
    Based,
    Choice,
    Clock,
    Percentage,
    Quantity,
    Ratio,
    Words,
    split_top,
)
from services.kit.text.math_answer.units import Unit, currency, read_unit

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([ap])?\.?\s?(?:m\b)?\.?", re.IGNORECASE)
_HOUR = re.compile(r"(\d{1,2})\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_CHOICE = re.compile(r"([A-J])|(?:\(([A-J])\)|([A-J])[.:)])[.:]?(?:\s*|\s+[^\s+*/^=<>-].*)")
_WORDS = re.compile(r"[^\W\d_]+(?:[' -]+[^\W\d_]+){0,5}[.!]?")
_BASED = re.compile(r"([0-9A-F]+)_\{?\s*(\d{1,2})\s*\}?")
_MEASURED = re.compile(r"(.*?[\d)}!]|[^a-zA-Z]*\\pi)(\s*)([a-zA-Z](?:[a-zA-Z\s./^{}'\d-]|\\cdot)*)", re.DOTALL)
_CURRENCY = re.compile(rf"(-?)\s*(?:US|CA|AU|HK|NZ)?\s?([{DOLLAR}€£¥₹])\s*(.+)|(.*\d)\s*([{DOLLAR}€£¥₹])", re.DOTALL)
_PERCENT = re.compile(
    rf"(.*\S)\s*(?:{PERCENT}|{TEXT}?\s*per\s?cent(?:age)?(?: points)?\s*{END}?)", re.DOTALL | re.IGNORECASE
)
_TRIGONOMETRIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(rf"(\d+(?:\.\d+)?)\s*{TEXT}degrees{END}")
_SHORT_WORDS = frozenset(
    {"yes", "no", "odd", "even", "one", "two", "six", "ten", "red", "dog", "cat", "all", "any", "both", "none"}
)
_SENTENCE_WORDS = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "has",
        "have",
        "it",
        "we",
        "you",
        "because",
        "since",
        "if",
        "when",
        "then",
        "which",
        "that",
        "where",
        "while",
        "so",
        "but",
    ]
)
_MONTH = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?"
)
_DATE = re.compile(
    rf"({_MONTH})\.?\s+(?:(\d{{1,2}})(?:st|nd|rd|th)?|the\s(\d{{1,2}})(?:st|nd|rd|th))(?:,?\s+(\d{{4}}))?",
    re.IGNORECASE,
)
_NUMERIC_DATE = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})|(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})")
_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s?([a-zA-Z]{1,12})\.?")
_COMPOUND = re.compile(
    r"\d{1,9}\s?[a-zA-Z]{1,12}\.?(?:\s?,?\s?(?:and\s)?\d{1,9}(?:\.\d{1,9})?\s?[a-zA-Z]{1,12}\.?){1,3}"
)
_ORDINAL = re.compile(r"(\d+)\s?(?:st|nd|rd|th)")
_PLAIN_NUMBER = re.compile(
    r"[-+]?[\d.,/ ]+|[-+]?\d*\s?\\frac\{\d+\}\{\d+\}|[-+\d.,\s]*\\(?:times|cdot)\s?10\^\{-?\d+\}"
)


def _date(text: str) -> Answer | None:
    if numeric := _NUMERIC_DATE.fullmatch(_unmarked(text)):  # no difference and no quotient
        return Words(" ".join(str(int(part)) for part in numeric.groups() if part))
    date = _DATE.fullmatch(_unmarked(text))
    if date is None:
        return None
    day, year = date[2] or date[3], date[4]
    return Words(" ".join(part for part in (date[1][:3].lower(), day, year) if part))


def _clock(text: str) -> Answer | None:
    plain = " ".join(_unmarked(text).split())
    time = _CLOCK.fullmatch(plain) or _HOUR.fullmatch(plain)
    if time is None:
        return None
    groups = time.groups()
    half = (groups[-1] or "").lower()
    hour, minute, second = (
        int(groups[0]),
        int(groups[1]) if len(groups) == 4 else 0,
        int(groups[2] or 0) if len(groups) == 4 else 0,
    )
    if hour > 24 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    ratio = (
        read_expression(rf"\frac{{{hour}}}{{{minute}}}")
        if not half and minute and len(groups) == 4 and not groups[2]
        else None
    )
    return Clock(3600 * hour + 60 * minute + second, {"a": "am", "p": "pm"}.get(half, ""), ratio)  # type: ignore[arg-type]


def _compound(text: str) -> Answer | None:
    """ "5 hours and 20 minutes" in the last unit."""
    plain = " ".join(_unmarked(text).split())
    if not _COMPOUND.fullmatch(plain):
        return None
    amounts = [(match[1], read_unit(match[2])) for match in _AMOUNT.finditer(plain)]
    last = amounts[-1][1]
    if len({unit.dimensions for _, unit in amounts}) > 1 or last.dimensions[0][0].startswith("thing"):
        return None
    total = "+".join(rf"{amount} \cdot {unit.factor / last.factor:.10g}" for amount, unit in amounts)
    return Quantity(read_expression(total), last)


def _choice(text: str) -> Answer | None:
    choice = _CHOICE.fullmatch(_unmarked(text))
    return Choice(choice[1] or choice[2] or choice[3]) if choice else None


def _words(text: str) -> Answer | None:
    plain = " ".join(_unmarked(text).strip('"').split())
    if not _WORDS.fullmatch(plain):
        return None
    is_term = (
        TEXT not in text
        and plain.isascii()
        and len(plain) <= 3
        and not (len(plain) > 1 and plain.isupper())
        and plain.lower() not in _SHORT_WORDS
    )
    if is_term:
        return None
    if _SENTENCE_WORDS & set(plain.lower().split()):
        raise Unreadable(text)
    return Words(plain.rstrip(".!").lower())


def _percentage(text: str) -> Answer | None:
    percent = _PERCENT.fullmatch(text)
    return Percentage(read_expression(percent[1])) if percent else None


def _ratio(text: str) -> Answer | None:
    parts, _signs = split_top(text, re.compile(":"))
    if len(parts) < 2:
        return None
    return Ratio(tuple(read_expression(part) for part in parts))


def _quantity(text: str) -> Quantity | Expression | None:
    money = _CURRENCY.fullmatch(text)
    if money is not None:
        value, symbol = (money[1] + money[3], money[2]) if money[3] else (money[4], money[5])
        return _measure(value, currency(symbol))
    if _TRIGONOMETRIC.search(text):
        return None
    if ordinal := _ORDINAL.fullmatch(" ".join(_unmarked(text).split())):
        return read_expression(ordinal[1])
    value, mark, rest = text.partition(TEXT)
    if mark and value.strip():
        return Quantity(read_expression(value), read_unit(_unmarked(rest)))
    measured = None if mark else _MEASURED.fullmatch(text)
    if measured is None:
        return None
    is_spaced = bool(measured[2]) and _PLAIN_NUMBER.fullmatch(measured[1]) is not None
    try:
        return Quantity(read_expression(measured[1]), read_unit(measured[3], spaced=is_spaced))
    except Unreadable:
        return None


def _measure(value: str, unit: Unit) -> Quantity:
    """An amount of money, perhaps followed by a scale ("million") or the currency's own name."""
    amount, per, rate = " ".join(_unmarked(value).split()).partition(" per ")
    if per:
        rates = read_unit(rate)
        dimensions = (*unit.dimensions, *((name, -power) for name, power in rates.dimensions))
        return Quantity(read_expression(amount), Unit(unit.factor / rates.factor, tuple(sorted(dimensions))))
    inner = _quantity(value)
    if not isinstance(inner, Quantity):
        return Quantity(read_expression(value), unit)
    same = inner.unit.dimensions in {(), unit.dimensions}
    if not same:
        raise Unreadable(value)
    return Quantity(
        inner.value, Unit(inner.unit.factor * (1.0 if inner.unit.dimensions else unit.factor), unit.dimensions)
    )


def _based(text: str) -> Answer | None:
    based = _BASED.fullmatch(_unmarked(text).strip())
    if based is None or not 2 <= int(based[2]) <= 36:
        return None
    if not any(char.isdigit() for char in based[1]):
        return None
    return Based(based[1].lstrip("0") or "0", int(based[2]))


def _term(text: str) -> Expression:
    return read_expression(
        _DEGREES.sub(r"(\\frac{\1 \\cdot \\pi}{180})", text) if _TRIGONOMETRIC.search(text) else text
    )


def _unmarked(text: str) -> str:
    return text.replace(TEXT, " ").replace(END, " ").strip()


def read_value(text: str) -> Answer:
    """The value that a unified text without top-level separators is. Raises `Unreadable`."""
    for reader in _READERS:
        answer = reader(text)
        if answer is not None:
            return answer
    return _term(text)


def read_phrase(text: str) -> Answer | None:
    """A date, a time or an amount in several units, which have separators of their own."""
    return _date(text) or _clock(text) or _compound(text)


_READERS: tuple[Callable[[str], Answer | None], ...] = (_choice, _percentage, _words, _ratio, _quantity, _based)
