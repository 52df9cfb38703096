"""Which language a text is written in; by a small model that ships with its package."""

import py3langid.langid


def detect_language(text: str) -> str:
    """The ISO 639-1 code of the likeliest language."""
    return str(py3langid.langid.classify(text)[0])
