"""Folding: one form for texts that look or read alike, in linear time. Pure.

`unicodedata.normalize` sorts marks by insertion, which takes quadratic time in a run of them. Runs are cut first.
"""

import re
import unicodedata

from services.kit.text.segments import MARKS, character_class

_MAX_MARKS = 16
"""More than any script puts on one letter."""
_ACCENTS = re.compile(f"[{character_class(char for char in map(chr, range(0x20000)) if unicodedata.combining(char))}]+")
"""Marks that stand above, below or in a letter; vowel signs are letters."""
LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝвкмнтАВЕКМНОРСТУХІЈЅοαερτυνικηΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɡ",
    "aeopcyxijshdqwbkmhtABEKMHOPCTYXIJSoaeptuvikhABEZHIKMNOPTYXig",
)
"""Letters of other scripts that look like Latin ones."""
_SENTENCES = frozenset("\ufdfa\ufdfb")
"""Two characters that stand for whole sentences, with 18 and 8 characters in compatibility form."""
_MARK_FLOOD = re.compile(f"([{MARKS}]{{{_MAX_MARKS}}})[{MARKS}]+")


def bounded_marks(text: str) -> str:
    """The text with at most 16 marks behind each other, so that normalising it takes linear time."""
    if text.isascii():
        return text
    if not _SENTENCES.isdisjoint(text):
        text = text.translate(dict.fromkeys(map(ord, _SENTENCES), " "))
    return _MARK_FLOOD.sub(r"\1", text)


def compatible(text: str) -> str:
    """The text in compatibility form (NFKC)."""
    return text if text.isascii() else unicodedata.normalize("NFKC", bounded_marks(text))


def folded(text: str) -> str:
    """The text without case, accents, compatibility forms and look-alike letters."""
    if text.isascii():
        return text.casefold()
    return _ACCENTS.sub("", unicodedata.normalize("NFKD", bounded_marks(text))).casefold().translate(LOOKALIKES)
