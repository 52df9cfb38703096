"""Folding: one form for texts that look or read alike, in linear time. Pure.

`unicodedata.normalize` sorts marks by insertion, which takes quadratic time in a run of them. Runs are cut first.
"""

import re
import unicodedata

from services.kit.text.segments import MARKS

_MAX_MARKS = 16
"""More than any script puts on one letter."""
_MARK_FLOOD = re.compile(f"([{MARKS}]{{{_MAX_MARKS}}})[{MARKS}]+")


def bounded_marks(text: str) -> str:
    """The text with at most 16 marks behind each other, so that normalising it takes linear time."""
    return text if text.isascii() else _MARK_FLOOD.sub(r"\1", text)


def compatible(text: str) -> str:
    """The text in compatibility form (NFKC)."""
    return text if text.isascii() else unicodedata.normalize("NFKC", bounded_marks(text))
