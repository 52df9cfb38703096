"""Units of measurement and counted things, by their names in answers."""

import re
from dataclasses import dataclass

from services.kit.text.math_answer.errors import Unreadable

_UNITS: dict[str, tuple[float, str]] = {
    names: (factor, dimension)
    for dimension, table in {
        "length": {
            "mm millimeter millimetre": 0.001, "cm centimeter centimetre": 0.01, "dm decimeter decimetre": 0.1,
            "m meter metre": 1.0, "km kilometer kilometre": 1000.0, "in inch inches": 0.0254, "ft foot feet": 0.3048,
            "yd yard": 0.9144, "mi mile": 1609.344, "nm nanometer": 1e-9, "light-year lightyear": 9.4607304725808e15,
        },
        "mass": {
            "mg milligram": 1e-6, "g gram gramme": 0.001, "kg kilogram kilo": 1.0, "t ton tonne": 1000.0,
            "lb lbs pound": 0.45359237, "oz ounce": 0.028349523125,
        },
        "time": {
            "ms millisecond": 0.001, "s sec second": 1.0, "min minute": 60.0, "h hr hrs hour": 3600.0, "d day": 86400.0,
            "wk week": 604800.0, "month": 2629746.0, "yr year": 31556952.0,
        },
        "volume": {
            "ml milliliter millilitre": 1e-6, "cl centiliter": 1e-5, "l liter litre": 0.001,
            "gal gallon": 0.003785411784,
        },
        "angle": {"deg degree": 1.0, "rad radian": 57.29577951308232},
        "temperature": {"k kelvin": 1.0},
        "celsius": {"c celsius": 1.0}, "fahrenheit": {"f fahrenheit": 1.0},
        "dollar": {"usd dollar bucks": 1.0, "cent": 0.01}, "euro": {"eur euro": 1.0},
        "sterling": {"gbp": 1.0}, "yen": {"yen jpy": 1.0},
        "rupee": {"rupee inr rs": 1.0}, "yuan": {"yuan rmb cny": 1.0},
        "force": {"n newton": 1.0, "kn kilonewton": 1000.0},
        "energy": {"j joule": 1.0, "kj kilojoule": 1000.0, "ev": 1.602176634e-19},
        "power": {"w watt": 1.0, "kw kilowatt": 1000.0}, "voltage": {"v volt": 1.0}, "current": {"a amp ampere": 1.0},
        "pressure": {"pa pascal": 1.0, "kpa": 1000.0, "atm": 101325.0}, "frequency": {"hz hertz": 1.0},
        "resistance": {"ohm": 1.0}, "amount": {"mol mole": 1.0},
        "number": {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12},
    }.items()
    for names, factor in table.items()
}  # fmt: skip
_BY_NAME = {name: entry for names, entry in _UNITS.items() for name in names.split()}
_DERIVED = {"volume": ("length", 3)}
_PHRASES = {
    "mph": "mile per hour", "kph": "km per hour", "kmh": "km per hour", "fps": "ft per second",
    "degrees c": "celsius", "degrees f": "fahrenheit", "degrees celsius": "celsius", "degrees fahrenheit": "fahrenheit",
}  # fmt: skip
_SYMBOLS = {"€": "euro", "£": "gbp", "¥": "yen", "₹": "rupee"}
_ANY = frozenset({"unit", "units"})
_STOPWORDS = frozenset(
    [
        "if",
        "is",
        "are",
        "when",
        "else",
        "for",
        "or",
        "and",
        "the",
        "than",
        "about",
        "not",
        "but",
        "where",
        "with",
        "as",
        "so",
        "because",
        "then",
        "otherwise",
        "there",
        "this",
        "that",
        "no",
        "i",
        "it",
        "we",
    ]
)
_WORD = re.compile(r"([a-zA-Z][a-zA-Z'-]*)\.?\s*(?:\^\s*\{?(-?\d)\}?)?")
_MAX_NOUN_WORDS = 4


@dataclass(frozen=True)
class Unit:
    """A factor and powers of dimensions; a counted thing is a dimension of its own, "any" fits every unit."""

    factor: float
    dimensions: tuple[tuple[str, int], ...]

    @property
    def is_any(self) -> bool:
        """Whether this is "units", without saying which."""
        return any(name == "any" for name, _ in self.dimensions)


def read_unit(text: str, *, spaced: bool = True) -> Unit:
    """The unit or counted thing that a text names as a whole. Raises `Unreadable`.

    Letters that directly follow a number (`spaced` is false) may be variables: they are a unit only where they have a
    known name of two letters or more.
    """
    phrase = " ".join(text.replace("-", " ").lower().split()).rstrip(".")
    phrase = _PHRASES.get(phrase, phrase)
    phrase = re.sub(r"\s*/\s*|\s*\bper\b\s*", " / ", phrase).strip()
    numerator, *denominators = phrase.split(" / ")
    if len(denominators) > 2:
        raise Unreadable(text)
    parts = [(1, numerator), *((-1, part) for part in denominators)]
    factor, dimensions = 1.0, dict[str, int]()
    for sign, part in parts:
        unit = _product(part, spaced=spaced)
        factor *= unit.factor**sign
        for name, power in unit.dimensions:
            dimensions[name] = dimensions.get(name, 0) + sign * power
    return Unit(factor, tuple(sorted((name, power) for name, power in dimensions.items() if power)))


def currency(symbol: str) -> Unit:
    """The unit of a currency symbol; a dollar where it is none of the others."""
    return read_unit(_SYMBOLS.get(symbol, "dollar"))


def _product(text: str, *, spaced: bool) -> Unit:
    words = text.replace("*", " ").replace("\\cdot", " ")
    matches = list(_WORD.finditer(words))
    if not matches or "".join(match.group() for match in matches).replace(" ", "") != words.replace(" ", ""):
        raise Unreadable(text)
    power, factor, dimensions, nouns = 1, 1.0, dict[str, int](), []
    for match in matches:
        word, exponent = match[1], int(match[2] or 1)
        if word in {"square", "sq", "squared", "cubic", "cu", "cubed"}:
            power = 3 if word.startswith("cu") else 2
            continue
        entry = _BY_NAME.get(word) or _BY_NAME.get(word.removesuffix("s")) or _BY_NAME.get(word.removesuffix("es"))
        if word in _ANY:
            dimensions["any"] = 1
        elif entry is not None and (spaced or len(word) > 1):
            base, count = _DERIVED.get(entry[1], (entry[1], 1))
            factor *= entry[0] ** (exponent * power)
            if base != "number":
                dimensions[base] = dimensions.get(base, 0) + exponent * power * count
        else:
            nouns.append(word)
        power = 1 if not word.endswith(("ed", "square", "cubic")) else power
    if nouns:
        _add_noun(nouns, dimensions, spaced=spaced)
    return Unit(factor, tuple(dimensions.items()))


def _add_noun(nouns: list[str], dimensions: dict[str, int], *, spaced: bool) -> None:
    if len(nouns) > _MAX_NOUN_WORDS or _STOPWORDS & set(nouns) or not spaced or max(map(len, nouns)) < 3:
        raise Unreadable(" ".join(nouns))
    singular = nouns[0] if len(nouns) > 1 and nouns[1] == "of" else nouns[-1]
    dimensions["thing " + re.sub(r"(?:ies|y|es|s)$", "", singular)] = 1
