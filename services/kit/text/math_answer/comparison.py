"""Equality of two answers that were read as a whole."""

from collections.abc import Callable, Sequence
from typing import Any

from services.kit.text.math_answer.equality import equal_expressions, proportional
from services.kit.text.math_answer.errors import Undecided, Unreadable
from services.kit.text.math_answer.expressions import Expression, read_expression
from services.kit.text.math_answer.reader import as_region
from services.kit.text.math_answer.structure import (
    Answer,
    Based,
    Choice,
    Clock,
    Congruence,
    Group,
    Interval,
    Named,
    NumberSet,
    Percentage,
    Quantity,
    Ratio,
    Region,
    Relation,
    Words,
)

_HALF_DAY_S = 43_200


def equal_answers(gold: Answer, answer: Answer) -> bool:
    """Whether two answers are equal. Raises `Undecided`."""
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _equal_named(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _equal_relations(gold, answer)
    if isinstance(answer, Relation) and answer.sign == "=" and not answer.rhs.value.free_symbols:
        return equal_answers(gold, answer.rhs)  # "m+n = 7" where 7 is wanted
    if isinstance(answer, Based):
        return _equal_based(gold, answer)
    gold, answer = _solved(gold, answer), _solved(answer, gold)
    if isinstance(gold, Region) or isinstance(answer, Region):
        return _equal_regions(gold, answer)
    if isinstance(gold, Group) or isinstance(answer, Group):
        return _equal_groups(gold, answer)
    for kind, compare in _SCALARS:
        if isinstance(gold, kind) or isinstance(answer, kind):
            return compare(gold, answer) if isinstance(gold, kind) else compare(answer, gold)
    if isinstance(gold, Expression) and isinstance(answer, Expression):
        return equal_expressions(gold, answer)
    return isinstance(gold, NumberSet) and gold == answer


def _equal_named(gold: Answer, answer: Answer) -> bool:
    if not isinstance(gold, Named):
        return _equal_to_named(answer, gold)
    if not isinstance(answer, Named):
        return _equal_to_named(gold, answer)
    if gold.name == answer.name:
        return equal_answers(gold.value, answer.value)
    relations = _as_equation(gold), _as_equation(answer)
    if relations[0] is None or relations[1] is None:
        return False
    return _equal_relations(relations[0], relations[1])


def _equal_to_named(named: Answer, other: Answer) -> bool:
    assert isinstance(named, Named)
    if isinstance(other, Relation) and other.sign == "=":
        equation = _as_equation(named)
        return equation is not None and _equal_relations(equation, other)
    return equal_answers(named.value, other)


def _as_equation(named: Named) -> Relation | None:
    """`y = 2x` as an equation, where its right side has variables, too."""
    if not isinstance(named.value, Expression):
        return None
    try:
        return Relation("=", read_expression(named.name), named.value)
    except Unreadable:
        return None


def _equal_relations(gold: Relation, answer: Relation) -> bool:
    if gold.sign != answer.sign:
        return False
    is_symmetric = gold.sign in {"=", "!="}
    return proportional((gold.lhs, gold.rhs), (answer.lhs, answer.rhs), positive=not is_symmetric)


def _solved(answer: Answer, other: Answer) -> Answer:
    """An inequality in one variable as the region that solves it, where the other answer is a region or an interval."""
    if not isinstance(answer, Relation) or answer.sign not in {"<", "<="} or not isinstance(other, Region | Group):
        return answer
    from sympy import Le, Lt, Union, solve_univariate_inequality

    symbols = answer.lhs.value.free_symbols | answer.rhs.value.free_symbols
    if len(symbols) != 1:
        return answer
    kind = Lt if answer.sign == "<" else Le
    solution = solve_univariate_inequality(kind(answer.lhs.value, answer.rhs.value), symbols.pop(), relational=False)
    parts = solution.args if isinstance(solution, Union) else (solution,)
    return Region(tuple(interval for part in parts for interval in _intervals(part)))


def _intervals(part: Any) -> list[Interval]:
    """A part of a solution set of sympy."""
    if part.is_Interval:
        lower, upper = (Expression(str(end), end, False) for end in (part.start, part.end))
        return [Interval(lower, upper, bool(part.left_open), bool(part.right_open))]
    if part.is_FiniteSet:
        points = [Expression(str(point), point, False) for point in part.args]
        return [Interval(point, point, False, False) for point in points]
    raise Undecided("the inequality has no solution in intervals")


def _equal_groups(gold: Answer, answer: Answer) -> bool:
    if not isinstance(gold, Group) or not isinstance(answer, Group):
        group, other = (gold, answer) if isinstance(gold, Group) else (answer, gold)
        assert isinstance(group, Group)
        if isinstance(other, Expression) and hasattr(other.value, "flat"):
            return _equal_to_matrix(group.items, other)
        return len(group.items) == 1 and group.bracket in {"", "{}"} and equal_answers(group.items[0], other)
    if len(gold.items) != len(answer.items):
        return False
    ordered = [group for group in (gold, answer) if group.bracket not in {"", "{}"}]
    if not ordered:
        names = [any(isinstance(item, Named) for item in group.items) for group in (gold, answer)]
        return (_equal_in_order if names[0] != names[1] else _equal_in_any_order)(gold.items, answer.items)
    if "{}" in (gold.bracket, answer.bracket):
        return False
    if len(ordered) == 2 and len(gold.items) == 2 and gold.bracket != answer.bracket:
        return False
    return _equal_in_order(gold.items, answer.items)


def _equal_to_matrix(items: Sequence[Answer], matrix: Expression) -> bool:
    """Whether the items are the matrix's rows, or the entries of a vector."""
    rows = [item.items for item in items if isinstance(item, Group)]
    if rows:
        columns = matrix.value.shape[1]
        if len(rows) != len(items) or any(len(row) != columns for row in rows):
            return False
        items = [entry for row in rows for entry in row]
    entries = [Expression(str(entry), entry, matrix.is_decimal) for entry in matrix.value.flat()]
    return _equal_in_order(items, entries)


def _equal_in_order(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    return len(gold) == len(answer) and all(equal_answers(a, b) for a, b in zip(gold, answer, strict=True))


def _equal_in_any_order(gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    rest = list(answer)
    for item in gold:
        match = next((index for index, other in enumerate(rest) if equal_answers(item, other)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _equal_regions(gold: Answer, answer: Answer) -> bool:
    try:
        lhs, rhs = as_region(gold).intervals, as_region(answer).intervals
    except Unreadable:
        return False
    if len(lhs) != len(rhs):
        return False
    rest = list(rhs)
    for interval in lhs:
        match = next((index for index, other in enumerate(rest) if _equal_intervals(interval, other)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _equal_intervals(gold: Interval, answer: Interval) -> bool:
    return (
        (gold.is_left_open, gold.is_right_open) == (answer.is_left_open, answer.is_right_open)
        and equal_expressions(gold.lower, answer.lower)
        and equal_expressions(gold.upper, answer.upper)
    )


def _compare_percentage(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Percentage)
    if isinstance(answer, Percentage):
        return equal_expressions(gold.value, answer.value)
    if not isinstance(answer, Expression):
        return False
    return equal_expressions(gold.value, answer) or equal_expressions(_scaled(gold.value, 0.01), answer)


def _compare_quantity(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Quantity)
    if isinstance(answer, Expression):
        return equal_expressions(gold.value, answer) or (
            not gold.unit.dimensions and equal_expressions(_scaled(gold.value, gold.unit.factor), answer)
        )
    if not isinstance(answer, Quantity):
        return False
    if gold.unit.is_any or answer.unit.is_any:
        return equal_expressions(gold.value, answer.value)
    if gold.unit.dimensions != answer.unit.dimensions:
        return False
    if gold.unit.factor == answer.unit.factor:
        return equal_expressions(gold.value, answer.value)
    return equal_expressions(_scaled(gold.value, gold.unit.factor / answer.unit.factor), answer.value)


def _scaled(expression: Expression, factor: float) -> Expression:
    from sympy import Mul, Rational

    exact = Rational(str(factor)).limit_denominator(10**12)
    return Expression(f"{expression.text}*{factor}", Mul(expression.value, exact), expression.is_decimal)


def _compare_clock(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Clock)
    if isinstance(answer, Clock):
        if (gold.half and answer.half) or gold.half == answer.half:
            return gold.seconds == answer.seconds
        return gold.seconds == answer.seconds or abs(gold.seconds - answer.seconds) == _HALF_DAY_S
    if gold.ratio is None:
        return False
    if isinstance(answer, Ratio) and len(answer.parts) == 2:
        return equal_expressions(gold.ratio, _quotient(answer.parts))
    return isinstance(answer, Expression) and equal_expressions(gold.ratio, answer)


def _compare_ratio(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Ratio)
    if isinstance(answer, Expression):
        return len(gold.parts) == 2 and equal_expressions(_quotient(gold.parts), answer)
    if not isinstance(answer, Ratio) or len(gold.parts) != len(answer.parts):
        return False
    pairs = list(zip(gold.parts, answer.parts, strict=True))
    return all(equal_expressions(_product(pairs[0][0], b), _product(pairs[0][1], a)) for a, b in pairs[1:])


def _quotient(parts: Sequence[Expression]) -> Expression:
    from sympy import Mul, Pow

    return Expression(
        f"{parts[0].text}:{parts[1].text}",
        Mul(parts[0].value, Pow(parts[1].value, -1)),
        any(part.is_decimal for part in parts),
    )


def _product(lhs: Expression, rhs: Expression) -> Expression:
    from sympy import Mul

    return Expression(f"{lhs.text}*({rhs.text})", Mul(lhs.value, rhs.value), lhs.is_decimal or rhs.is_decimal)


def _compare_congruence(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Congruence)
    if not isinstance(answer, Congruence) or gold.modulus != answer.modulus:
        return False
    difference = gold.rhs.value - answer.rhs.value
    return equal_expressions(gold.lhs, answer.lhs) and bool(difference % gold.modulus == 0)


def _compare_based(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Based)
    return isinstance(answer, Expression) and answer.text.lstrip("0") == gold.digits


def _equal_based(gold: Answer, answer: Based) -> bool:
    """The same base, or the value of a number that is written without one."""
    if isinstance(gold, Based):
        return gold == answer
    return isinstance(gold, Expression) and equal_expressions(
        gold, read_expression(str(int(answer.digits, answer.base)))
    )


def _compare_words(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Words)
    return isinstance(answer, Words) and gold.text == answer.text


def _compare_choice(gold: Answer, answer: Answer) -> bool:
    assert isinstance(gold, Choice)
    if isinstance(answer, Expression):
        return answer.text.strip("() ").upper() == gold.letter
    return isinstance(answer, Choice) and gold.letter == answer.letter


_SCALARS: tuple[tuple[type, Callable[[Answer, Answer], bool]], ...] = (
    (Words, _compare_words),
    (Choice, _compare_choice),
    (Percentage, _compare_percentage),
    (Quantity, _compare_quantity),
    (Clock, _compare_clock),
    (Ratio, _compare_ratio),
    (Congruence, _compare_congruence),
    (Based, _compare_based),
)
