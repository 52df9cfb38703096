"""Language identification, by the small model that ships with py3langid."""

import py3langid.langid

UNKNOWN_LANGUAGE = "und"

_MIN_CHARS = 40
"""Characters below which a language is a guess."""
_MAX_CHARS = 1_000


def detect_language(text: str) -> str:
    """The ISO 639-1 code of the most likely language."""
    return str(py3langid.langid.classify(text)[0])


def language_of(text: str) -> str:
    """The language of a text's beginning, or `UNKNOWN_LANGUAGE` where it is too short to tell."""
    if len(text.strip()) < _MIN_CHARS:
        return UNKNOWN_LANGUAGE
    return detect_language(text[:_MAX_CHARS])
