"""Expressions: text read whole by latex2sympy, and equality of their values."""

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from services.kit.text.math_answer.errors import Unreadable
from services.kit.text.math_answer.notation import DOLLAR, END, PERCENT, TEXT

_MAX_DEPTH = 40
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|lcm|gcd|max|min|det|sqrt|pi"
_PLAIN_FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?![a-zA-Z])")
_PLAIN_WORD = re.compile(
    r"(?<![\\a-zA-Z])[a-zA-Z]{4,}|(?<![\\a-zA-Z])(?:and|or|is|if|the|for|not|are|to|of|in|no)(?![a-zA-Z])"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_MIXED = re.compile(r"([-+]?)\s?(\d+)\s?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<=\s)(\d+)/(\d+))")
_MIXED_TERM = re.compile(r"(?<![\w.^}])(\d+)\s?(\\frac\{\d+\}\{\d+\})(?=\s*(?:[-+=),]|$))")
_IMPLIED_PRODUCT = re.compile(r"(?<=\d)\s?(?=\()")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s?\{?(\d+)\}?")
_DECIMAL = re.compile(r"(?<!\d)(\d*)\.(\d+)")
_UNREADABLE = re.compile(
    rf"[{TEXT}{END}{PERCENT}{DOLLAR}?\"#@&$]|\\(?:[lcd]?dots|vdots|boxed|includegraphics|[cp]?mod|pmod|bmod|operatorname)(?![a-zA-Z])"
    r"|\.\.|\d\s+\.?\d|\d\.\d+\.|\.\s|[\d)}]'|:|!!|(?<![\w}])\d+_"
)
_MATRIX = re.compile(r"\\(?:begin|end)\{(?:[pbvBV]?matrix|array)\}(?:\{[lcr|]*\})?|\\\\")
_IMAGINARY = re.compile(r"(?<![\\a-zA-Z_{])i(?![a-zA-Z])|(?<=\{)i(?![a-zA-Z=])|(?<=\d)i(?![a-zA-Z])")
_INDEX = re.compile(r"\\(?:sum|prod)_\{?\s?i|_\{?i")


@dataclass(frozen=True)
class Expression:
    """A value without unit: a number, a term with variables, or a matrix."""

    text: str
    value: Any
    """A sympy expression or matrix, not evaluated."""
    is_decimal: bool


def read_expression(text: str) -> Expression:
    """The expression that a unified text is as a whole. Raises `Unreadable`."""
    text = text.strip()
    _refuse(text)
    latex = _mixed_as_sum(text)
    if _SPACED_THOUSANDS.fullmatch(latex):
        latex = latex.replace(" ", "")
    latex = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), latex)
    bare = _MATRIX.sub(",", latex).replace("&", ",") if _MATRIX.search(latex) else latex
    if _UNREADABLE.search(bare) or _PLAIN_WORD.search(_PLAIN_FUNCTION.sub(" ", _COMMAND.sub(" ", bare))):
        raise Unreadable(text)
    latex = _MIXED_TERM.sub(r"(\1+\2)", latex)
    latex = _IMPLIED_PRODUCT.sub(r"\\cdot ", latex)
    latex = _PLAIN_FUNCTION.sub(r"\\\1 ", latex)
    exact = _DECIMAL.sub(_exact_decimal, _REPEATING.sub(_exact_repeating, latex))
    return Expression(text, _parsed(exact), _DECIMAL.search(_REPEATING.sub("", latex)) is not None)


def _refuse(text: str) -> None:
    depth = 0
    for char in text:
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(char, 0)
        if depth > _MAX_DEPTH or depth < 0:
            raise Unreadable(text)
    if not text or depth or text[-1] in "+-*/^_=<>," or text[0] in "*/^_=<>,":
        raise Unreadable(text)


def _mixed_as_sum(text: str) -> str:
    mixed = _MIXED.fullmatch(text)
    if mixed is None:
        return text
    numerator, denominator = mixed[3] or mixed[5], mixed[4] or mixed[6]
    if int(numerator) >= int(denominator):
        raise Unreadable(text)
    return rf"{mixed[1]}({mixed[2]}+\frac{{{numerator}}}{{{denominator}}})"


def _exact_decimal(match: re.Match[str]) -> str:
    whole, decimals = match[1], match[2]
    return rf"(\frac{{{int(whole + decimals)}}}{{1{'0' * len(decimals)}}})"


def _exact_repeating(match: re.Match[str]) -> str:
    whole, fixed, period = match[1], match[2], match[3]
    numerator = int(whole + fixed + period) - int(whole + fixed or "0")
    return rf"(\frac{{{numerator}}}{{{'9' * len(period)}{'0' * len(fixed)}}})"


def _parsed(latex: str) -> Any:
    import sympy
    from latex2sympy2_extended.latex2sympy2 import latex2sympy
    from sympy.core.function import AppliedUndef

    try:
        value = latex2sympy(
            latex, is_real=True, convert_degrees=False, normalization_config=None, conversion_config=_conversion()
        )
    except MemoryError:
        raise
    except Exception as error:  # the parser raises bare exceptions
        raise Unreadable(latex) from error
    if isinstance(value, sympy.MatrixBase):
        return value
    if not isinstance(value, sympy.Expr) or value.has(sympy.zoo, sympy.nan):
        raise Unreadable(latex)
    value = value.xreplace({call: sympy.Symbol(str(call), real=True) for call in value.atoms(AppliedUndef)})
    if _IMAGINARY.search(latex) and not _INDEX.search(latex):
        value = value.xreplace({symbol: sympy.I for symbol in value.free_symbols if symbol.name == "i"})
    return value


@cache
def _conversion() -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    return ConversionConfig(interpret_as_mixed_fractions=False)


def log10_size(value: Any) -> float:
    """About log10 of the absolute value, without evaluating; variables count as 10, and NaN stands for unknown."""
    import sympy

    if value.is_Rational:
        return _log10(value.p) - _log10(value.q) if value.p else -math.inf
    if value.is_Atom:
        return (
            1.0
            if value.is_Symbol or value in (sympy.oo, -sympy.oo)
            else math.log10(abs(float(value)))
            if value.is_real
            else 0.0
        )
    sizes = [log10_size(argument) for argument in value.args]
    if value.is_Mul:
        return sum(sizes)
    if value.is_Pow:
        return sizes[0] * _signed_value(value.exp, sizes[1])
    if isinstance(value, sympy.exp):
        return _signed_value(value.args[0], sizes[0]) * math.log10(math.e)
    if isinstance(value, sympy.factorial):
        return _log10_factorial(sizes[0])
    return max([0.0, *sizes], key=abs)


def _log10(number: int) -> float:
    return math.log10(abs(int(number)))


def _signed_value(value: Any, size: float) -> float:
    sign = -1.0 if value.could_extract_minus_sign() else 1.0
    return sign * (10.0**size if size < 300 else math.inf)


def _log10_factorial(size: float) -> float:
    return math.lgamma(10.0**size + 1.0) / math.log(10.0) if size < 300 else math.inf
