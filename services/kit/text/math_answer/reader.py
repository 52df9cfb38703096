"""The reading of an answer: the whole text or none of it."""

import re
from collections.abc import Callable, Sequence
from functools import cache

from services.kit.text.math_answer.equality import contradict
from services.kit.text.math_answer.errors import Unreadable
from services.kit.text.math_answer.expressions import Expression, read_expression
from services.kit.text.math_answer.notation import END, TEXT, unify
from services.kit.text.math_answer.scalars import read_phrase, read_value
from services.kit.text.math_answer.structure import (
    Answer,
    Bracket,
    Congruence,
    Group,
    Interval,
    Named,
    NumberSet,
    Region,
    Relation,
    split_top,
)

MAX_CHARS = 2_000
_MAX_ITEMS = 200
_MAX_DEPTH = 6
_AND = rf"(?:and|{TEXT}\s*and\s*{END})(?![a-zA-Z])"
_OR = rf"(?:or|{TEXT}\s*or\s*{END})(?![a-zA-Z])"
_LIST = re.compile(rf"\s*(?:[,;]\s*(?:{_AND}|{_OR})?|{_AND}|{_OR})\s*")
_UNION = re.compile(r"\\cup(?![a-zA-Z])")
_DIFFERENCE = re.compile(r"\\setminus(?![a-zA-Z])")
_SIGN = re.compile(r"\\(?:le|ge|ne|in|equiv|approx|to|rightarrow|mapsto)(?![a-zA-Z])|[=<>]")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_FRENCH = re.compile(r"([\[\]])([^\[\]]+)([\[\]])")
_BRACKETS = {"(": "(", "[": "[", r"\langle": "(", ")": ")", "]": "]", r"\rangle": ")"}
_ENCLOSED = re.compile(r"(\\\{|\\langle|[(\[{])(.*?)(\\\}|\\rangle|[)\]}])", re.DOTALL)
_NAME = re.compile(
    r"(?:\\[a-zA-Z]+|[A-Z]{2,}|[a-zA-Z]{4,}|[a-zA-Z])(?:_(?:\{[^{}]{1,12}\}|\w))?'*(?:\^\{-1\})?(?:\([^()]{1,24}\))?"
    rf"|{TEXT}[^{TEXT}{END}]{{1,60}}{END}|\([a-zA-Z, ]{{1,24}}\)"
)
_CONGRUENCE = re.compile(r"\(?\s*\\(?:pmod|mod|bmod)\s*\{?\s*(\d{1,6})\s*\}?\s*\)?$")
_NUMBER_SET = re.compile(r"\\mathbb\{([ZNQC])\}")
_REALS = r"\mathbb{R}"


def read_answer(text: str) -> Answer:
    """The answer that a text is as a whole. Raises `Unreadable`."""
    if len(text) > MAX_CHARS:
        raise Unreadable(f"{text[:60]}...")
    return _read(_without_french_brackets(unify(text)), 0)


def read_otherwise(text: str, other: Answer) -> list[Answer]:
    """What an unspaced comma between digits means beside `other`: "3,14" may be 3.14, and "100,200" two numbers."""
    numbers = unify(text).split(",")
    if len(numbers) < 2 or not all(re.fullmatch(r"-?\d{1,20}", number) for number in numbers):
        return []
    if isinstance(other, Group):
        return [Group("", tuple(read_expression(number) for number in numbers))]
    is_fraction = isinstance(other, Expression) and (other.is_decimal or other.value.is_integer is False)
    return [read_expression(".".join(numbers))] if is_fraction and len(numbers) == 2 else []


def _read(text: str, depth: int) -> Answer:
    text = text.strip()
    if not text or depth > _MAX_DEPTH:
        raise Unreadable(text)
    phrase = read_phrase(text)
    if phrase is not None:
        return phrase
    for reader in _READERS:
        answer = reader(text, depth + 1)
        if answer is not None:
            return answer
    return read_value(text)


def _list(text: str, depth: int) -> Answer | None:
    parts, signs = split_top(text, _LIST)
    if len(parts) < 2:
        return None
    if len(parts) > _MAX_ITEMS:
        raise Unreadable(text)
    items = [_read(part, depth) for part in parts]
    items = _without_conditions(items)
    if isinstance(items[0], Relation) and items[0].sign == "!=":
        lhs = items[0].lhs
        items = [Relation("!=", lhs, item) if isinstance(item, Expression) else item for item in items]
    if len(items) == 1:
        return items[0]
    names = {item.name for item in items if isinstance(item, Named)}
    if len(names) == 1 and isinstance(items[0], Named):
        values = [item.value if isinstance(item, Named) else item for item in items]
        return Named(items[0].name, _joined(values, signs))
    return _joined(items, signs)


def _without_conditions(items: list[Answer]) -> list[Answer]:
    """Without "k is an integer" and the like, which formulas with a parameter have behind them."""
    values = [item for item in items if not (isinstance(item, Named) and isinstance(item.value, NumberSet))]
    return values or items


def _joined(items: Sequence[Answer], signs: Sequence[str]) -> Answer:
    regions = [item for item in items if isinstance(item, Region)]
    if len(regions) < len(items):
        return Group("", tuple(items))
    is_alternative = any("or" in sign for sign in signs) or len(regions) != 2
    common = None if is_alternative else _intersection(*regions)
    return common or Region(tuple(interval for region in regions for interval in region.intervals))


def _intersection(first: Region, second: Region) -> Region | None:
    """Of two rays that face each other."""
    if len(first.intervals) != 1 or len(second.intervals) != 1:
        return None
    below, above = first.intervals[0], second.intervals[0]
    if above.lower == _least():
        below, above = above, below
    if below.lower != _least() or above.upper != _greatest():
        return None
    if not bool(above.lower.value < below.upper.value):
        return None
    return Region((Interval(above.lower, below.upper, above.is_left_open, below.is_right_open),))


def _relation(text: str, depth: int) -> Answer | None:
    sides, signs = split_top(text, _SIGN)
    if len(sides) < 2:
        return None
    kinds = set(signs)
    if kinds == {r"\equiv"} and len(sides) == 2:
        return _congruence(sides)
    if kinds <= {"=", r"\approx"}:
        return _equation(sides, signs, depth)
    if signs[0] in {r"\in", r"\to", r"\rightarrow", r"\mapsto"} and len(sides) == 2 and _NAME.fullmatch(sides[0]):
        return Named(_name(sides[0]), _read(sides[1], depth))
    if kinds <= {"<", ">", r"\le", r"\ge"}:
        return _inequality(sides, signs)
    if kinds == {r"\ne"} and len(sides) == 2:
        return Relation("!=", read_expression(sides[0]), read_expression(sides[1]))
    raise Unreadable(text)


def _congruence(sides: list[str]) -> Answer:
    modulus = _CONGRUENCE.search(sides[1])
    if modulus is None:
        raise Unreadable(sides[1])
    return Congruence(read_expression(sides[0]), read_expression(sides[1][: modulus.start()]), int(modulus[1]))


def _equation(sides: list[str], signs: list[str], depth: int) -> Answer:
    is_named = _NAME.fullmatch(sides[0]) is not None
    if r"\approx" in signs:  # what follows is rounded, where an exact value stands before it
        sides = sides[: max(signs.index(r"\approx") + 1, 1 + is_named)]
    if len(sides) == 1:
        return _read(sides[0], depth)
    if is_named:
        return Named(_name(sides[0]), _last_of_chain([_read(side, depth) for side in sides[1:]]))
    if len(sides) == 2 and _NAME.fullmatch(sides[1]) and not _NAME.fullmatch(sides[0]):
        value = _read(sides[0], depth)
        if not isinstance(value, Expression) or not value.value.free_symbols:
            return Named(_name(sides[1]), value)
    first, *others = [read_expression(side) for side in sides[:-1]]
    last = _last_of_chain([first, *others, _read(sides[-1], depth)])
    if others or not isinstance(last, Expression) or not (first.value.free_symbols or last.value.free_symbols):
        return last
    return Relation("=", first, last)


def _last_of_chain(values: list[Answer]) -> Answer:
    """The last value of a chain of equations. Raises `Unreadable` where a number before it is another one."""
    last = values[-1]
    if any(
        contradict(value, last) for value in values if isinstance(value, Expression) and isinstance(last, Expression)
    ):
        raise Unreadable("the sides differ")
    return last


def _name(text: str) -> str:
    return re.sub(rf"[\s{TEXT}{END}\\{{}}]", "", text)


def _inequality(sides: list[str], signs: list[str]) -> Answer:
    if len(sides) == 2 and not sides[0]:
        bound, is_open = read_expression(sides[1]), signs[0] in "<>"
        is_lower = signs[0] in {">", r"\ge"}
        lower = Interval(bound, _greatest(), is_open, True)
        return Region((lower if is_lower else Interval(_least(), bound, True, is_open),))
    expressions = [read_expression(side) for side in sides]
    if signs[0] in {">", r"\ge"}:
        expressions.reverse()
        signs = [{">": "<", r"\ge": r"\le"}.get(sign, ">") for sign in reversed(signs)]
    if not set(signs) <= {"<", r"\le"} or len(sides) > 3:
        raise Unreadable(" ".join(sides))
    strict = [sign == "<" for sign in signs]
    for index, side in enumerate(expressions):
        others = expressions[:index] + expressions[index + 1 :]
        if (
            side.value.is_Symbol
            and (len(sides) == 2 or index == 1)
            and not any(side.value in other.value.free_symbols for other in others)
        ):
            if len(sides) == 3:
                return Named(str(side.value), Region((Interval(others[0], others[1], strict[0], strict[1]),)))
            if not others[0].value.free_symbols:
                interval = (
                    Interval(_least(), others[0], True, strict[0])
                    if index == 0
                    else Interval(others[0], _greatest(), strict[0], True)
                )
                return Named(str(side.value), Region((interval,)))
    relations = [
        Relation("<" if is_strict else "<=", lhs, rhs)
        for is_strict, lhs, rhs in zip(strict, expressions, expressions[1:], strict=False)
    ]
    return relations[0] if len(relations) == 1 else Group("", tuple(relations))


@cache
def _least() -> Expression:
    return read_expression(r"-\infty")


@cache
def _greatest() -> Expression:
    return read_expression(r"\infty")


def _union(text: str, depth: int) -> Answer | None:
    parts, _ = split_top(text, _UNION)
    if len(parts) < 2:
        return None
    return Region(tuple(interval for part in parts for interval in as_region(_read(part, depth)).intervals))


def _difference(text: str, depth: int) -> Answer | None:
    parts, _ = split_top(text, _DIFFERENCE)
    if len(parts) != 2:
        return None
    whole, holes = as_region(_read(parts[0], depth)), _read(parts[1], depth)
    points = holes.items if isinstance(holes, Group) and holes.bracket == "{}" else ()
    values = [item for item in points if isinstance(item, Expression) and item.value.is_real]
    if len(whole.intervals) != 1 or not values or len(values) != len(points):
        raise Unreadable(text)
    values.sort(key=lambda item: float(item.value))
    interval, pieces = whole.intervals[0], []
    for value in values:
        pieces.append(Interval(interval.lower, value, interval.is_left_open, True))
        interval = Interval(value, interval.upper, True, interval.is_right_open)
    return Region((*pieces, interval))


def as_region(answer: Answer) -> Region:
    """An interval, a region or a finite set as a region. Raises `Unreadable`."""
    if isinstance(answer, Region):
        return answer
    if isinstance(answer, Group) and all(isinstance(item, Expression) for item in answer.items):
        items = [item for item in answer.items if isinstance(item, Expression)]
        if answer.bracket == "{}":
            return Region(tuple(Interval(item, item, False, False) for item in items))
        if answer.bracket and len(items) == 2:
            return Region((Interval(items[0], items[1], answer.bracket[0] == "(", answer.bracket[1] == ")"),))
    raise Unreadable("not a region")


def _enclosed(text: str, depth: int) -> Answer | None:
    if text == r"\emptyset":
        return Group("{}", ())
    if text in {_REALS, rf"{TEXT}all real numbers{END}", "all real numbers"}:
        return Region((Interval(_least(), _greatest(), True, True),))
    enclosed = _ENCLOSED.fullmatch(text)
    if number_set := _NUMBER_SET.fullmatch(text):
        return NumberSet(number_set[1])
    if enclosed is None or not _is_one_bracket(text):
        return None
    opening, inner, closing = enclosed.groups()
    if opening in {r"\{", "{"}:
        return _braced(inner, depth) if closing in {r"\}", "}"} else None
    bracket: Bracket = _BRACKETS.get(opening, "") + _BRACKETS.get(closing, "")  # type: ignore[assignment]
    parts, _ = split_top(re.sub(r"(?<=\d),(?=\d)", ", ", inner), re.compile(r"\s*[,;]\s*"))
    if len(parts) > 1 and len(bracket) == 2:
        return Group(bracket, tuple(_read(part, depth) for part in parts))
    return None


def _braced(inner: str, depth: int) -> Answer:
    if not inner.strip():
        return Group("{}", ())
    members, signs = split_top(inner, re.compile(r"\||:"))
    if len(members) == 2 and signs and _NAME.fullmatch(members[0].partition(r"\in")[0].strip()):
        return _read(members[1], depth)
    parts, _ = split_top(re.sub(r"(?<=\d),(?=\d)", ", ", inner), re.compile(r"\s*[,;]\s*"))
    return Group("{}", tuple(_read(part, depth) for part in parts))


def _is_one_bracket(text: str) -> bool:
    """Whether the bracket that opens the text closes at its end."""
    level = 0
    for token in re.finditer(r"\\[a-zA-Z]+|\\.|.", text, re.DOTALL):
        level += {
            "(": 1,
            "[": 1,
            "{": 1,
            r"\{": 1,
            r"\langle": 1,
            ")": -1,
            "]": -1,
            "}": -1,
            r"\}": -1,
            r"\rangle": -1,
        }.get(token.group(), 0)
        if level == 0:
            return token.end() == len(text)
    return False


def _without_french_brackets(text: str) -> str:
    """`]0,1[` as `(0,1)`."""
    if "]" not in text or not any(text.startswith(start) for start in "[]"):
        return text
    return _FRENCH.sub(lambda m: f"{'(' if m[1] == ']' else '['}{m[2]}{')' if m[3] == '[' else ']'}", text)


def _plus_minus(text: str, depth: int) -> Answer | None:
    if _PLUS_MINUS.search(text) is None:
        return None
    upper = _PLUS_MINUS.sub(lambda m: "+" if m.group() == r"\pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda m: "-" if m.group() == r"\pm" else "+", text)
    return Group("", (_read(upper.removeprefix("+"), depth), _read(lower.removeprefix("+"), depth)))


_READERS: tuple[Callable[[str, int], Answer | None], ...] = (
    _enclosed,
    _list,
    _relation,
    _union,
    _difference,
    _plus_minus,
)
