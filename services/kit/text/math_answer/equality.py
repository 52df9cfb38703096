"""Equality of two expressions, exact unless one of them is a decimal number.

A decimal number equals an exact one that it differs from by at most half a unit of the sixth decimal place (below 0.001
of the sixth significant digit): math-verify's rounding, without its equality of all tiny numbers. Terms with variables
are compared at several points.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from services.kit.text.math_answer.errors import Undecided, Unreadable
from services.kit.text.math_answer.expressions import Expression, log10_size

_MAX_DIGITS = 20_000
_TOLERANCE = 0.5e-6
_SMALL = 1e-3
_ROUNDING = 0.02
"""Of a chain such as "x = 1/3 = 0.33"."""
_SLACK = 1 + 1e-6
_DIGITS = 40
_EXACT = 10.0**-25
_ZERO = 10.0**-20
"""What terms cancel out to at a common zero, where there is nothing to compare."""
_POINTS = (
    (0.7321, 1.4189, 2.2367, 0.5773),
    (-1.3173, -0.4142, -2.7183, -1.0986),
    (3, 5, 2, 7),
    (17.31, 0.0923, 4.6692, 9.8696),
)
"""Values that variables take in turn; integers among them, for what is defined on integers."""


def equal_expressions(gold: Expression, answer: Expression) -> bool:
    """Whether the values are equal. Raises `Undecided` where they are too large to be computed."""
    import sympy

    lhs, rhs = gold.value, answer.value
    if lhs == rhs or gold.text == answer.text:
        return True
    if isinstance(lhs, sympy.MatrixBase) or isinstance(rhs, sympy.MatrixBase):
        return _equal_matrices(gold, answer)
    sizes = _size(lhs), _size(rhs)
    if any(abs(size) > _MAX_DIGITS for size in sizes if size not in (math.inf, -math.inf)) or math.inf in sizes:
        return _compare_sizes(*sizes)
    tolerance = gold.is_decimal or answer.is_decimal
    if lhs.free_symbols or rhs.free_symbols:
        return _equal_terms(lhs, rhs, rounded=tolerance)
    return _equal_numbers(lhs, rhs, rounded=tolerance)


def contradict(first: Expression, second: Expression) -> bool:
    """Whether two numbers are so far apart that one is no rounding of the other."""
    values = [expression.value for expression in (first, second)]
    if any(not getattr(value, "is_number", False) or abs(_size(value)) > _MAX_DIGITS for value in values):
        return False
    numbers = [_number(value, _DIGITS) for value in values]
    return bool(abs(numbers[0] - numbers[1]) > _ROUNDING * max(abs(number) for number in numbers))


def proportional(gold: tuple[Expression, Expression], answer: tuple[Expression, Expression], *, positive: bool) -> bool:
    """Whether the differences of two pairs of sides are multiples of each other, by a positive factor if `positive`."""
    lhs, rhs = (pair[0].value - pair[1].value for pair in (gold, answer))
    if lhs.free_symbols != rhs.free_symbols:
        return False
    if any(abs(_size(side)) > _MAX_DIGITS for side in (lhs, rhs)):
        raise Undecided("a number is too large to be computed")
    ratios = []
    for values in _points(lhs.free_symbols):
        pair = _value_at(lhs, values), _value_at(rhs, values)
        if None in pair or all(abs(value) < _ZERO for value in pair):
            continue
        if any(abs(value) < _ZERO for value in pair):
            return False
        ratios.append(pair[0] / pair[1])
    if len(ratios) < 2:
        raise Undecided("the sides have no values to compare")
    if positive and not all(ratio.is_real and ratio > 0 for ratio in ratios):
        return False
    return all(_close(ratio, ratios[0], rounded=False) for ratio in ratios)


def _points(symbols: Iterable[Any]) -> Iterator[dict[Any, float]]:
    ordered = sorted(symbols, key=lambda symbol: symbol.name)
    for point in _POINTS:
        yield {symbol: point[index % len(point)] + index // len(point) for index, symbol in enumerate(ordered)}


def _size(value: Any) -> float:
    """The largest size within the expression where that is beyond bounds, else the size."""
    sizes = [log10_size(part) for part in _parts(value)]
    largest = max(sizes, key=lambda size: abs(size) if not math.isinf(size) or size > 0 else 0.0)
    return largest if abs(largest) > _MAX_DIGITS and largest != -math.inf else sizes[0]


def _parts(value: Any) -> Iterator[Any]:
    import sympy

    return (part for part in sympy.preorder_traversal(value) if isinstance(part, sympy.Expr))


def _compare_sizes(lhs: float, rhs: float) -> bool:
    if lhs != rhs and abs(lhs - rhs) > 2 + 1e-6 * min(abs(lhs), abs(rhs)):
        return False
    raise Undecided("a number is too large to be computed")


def _equal_matrices(gold: Expression, answer: Expression) -> bool:
    lhs, rhs = gold.value, answer.value
    if getattr(lhs, "shape", None) != getattr(rhs, "shape", None):
        return False
    return all(
        equal_expressions(Expression("", a, gold.is_decimal), Expression(" ", b, answer.is_decimal))
        for a, b in zip(lhs.flat(), rhs.flat(), strict=True)
    )


def _equal_numbers(lhs: Any, rhs: Any, *, rounded: bool) -> bool:
    from sympy import Integral, nan, zoo

    lhs, rhs = (value if value.has(Integral) else value.doit() for value in (lhs, rhs))
    if lhs.has(nan, zoo):
        raise Undecided("the reference has no value")
    if lhs == rhs:
        return True
    if lhs.is_infinite or rhs.is_infinite:
        return False
    if not rounded and lhs.is_Rational and rhs.is_Rational:
        return False
    return _close(*(_number(value, _DIGITS) for value in (lhs, rhs)), rounded=rounded)


def _equal_terms(lhs: Any, rhs: Any, *, rounded: bool) -> bool:
    compared = 0
    for values in _points(lhs.free_symbols | rhs.free_symbols):
        pair = _value_at(lhs, values), _value_at(rhs, values)
        if None in pair or all(abs(value) < _ZERO for value in pair):
            continue
        compared += 1
        if not _close(*pair, rounded=rounded):
            return False
    if compared < 2:
        raise Undecided("the terms have no values to compare")
    return True


def _value_at(term: Any, values: dict[Any, float]) -> Any:
    import sympy

    try:
        if term.has(sympy.Sum, sympy.Product):
            if not all(isinstance(value, int) for value in values.values()):
                return None
            term = term.subs(values).doit()
        number = term.evalf(_DIGITS, subs=values)
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None
    return number if number.is_number and number.is_finite else None


def _number(value: Any, digits: int) -> Any:
    number = value.evalf(digits)
    if not number.is_number or not number.is_finite:
        raise Unreadable(str(value))
    return number


def _close(lhs: Any, rhs: Any, *, rounded: bool) -> bool:
    difference, scale = abs(lhs - rhs), max(abs(lhs), abs(rhs))
    if rounded:
        return bool(difference <= _TOLERANCE * _SLACK * (scale if scale < _SMALL else 1))
    return bool(difference <= _EXACT * scale)
