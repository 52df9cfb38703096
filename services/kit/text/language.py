"""Language identification, by the small model that ships with py3langid."""

import py3langid.langid

from services.kit.text.fence import utf8
from services.kit.text.folding import bounded_marks

UNKNOWN_LANGUAGE = "und"

_MIN_BYTES = 40
"""UTF-8 bytes below which a language is a guess: 40 Latin letters, 14 ideographs."""
_MAX_CHARS = 1_000
_STRETCH = 2_000


def detect_language(text: str) -> str:
    """The ISO 639-1 code of the most likely language; of a long text, by its beginning, middle and end."""
    if len(text) > 3 * _STRETCH:
        middle = (len(text) - _STRETCH) // 2
        text = "\n".join((text[:_STRETCH], text[middle : middle + _STRETCH], text[-_STRETCH:]))
    return str(py3langid.langid.classify(bounded_marks(text))[0])


def language_of(text: str) -> str:
    """The language of a text's beginning, or `UNKNOWN_LANGUAGE` where it is too short to tell."""
    if is_shorter(text, _MIN_BYTES):
        return UNKNOWN_LANGUAGE
    return detect_language(text[:_MAX_CHARS])


def is_shorter(text: str, size: int) -> bool:
    """Whether a text has fewer UTF-8 bytes than `size`, without white space around it."""
    return len(utf8(text.strip()[:size])) < size
