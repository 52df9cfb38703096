"""Quotations: what a criterion repeats of the texts that its author read, however it is spaced or spelt. Pure.

Texts are compared as letters alone: without case, accents, look-alikes, blanks, hyphens and other marks. A stretch of a
sampled text counts as quoted where short runs of its letters, which all occur in the criterion, cover nearly all of it:
so that words put in between, left out or exchanged hide nothing. An ideograph weighs as much as three letters.
"""

import re
from collections.abc import Iterable, Iterator

from services.kit.text.folding import folded
from services.kit.text.segments import HAN, HIRAGANA, KATAKANA, MARKS

_RUN = 8
"""Letters in a run: one or two words, which independent texts share now and then."""
_STRETCH = 36
"""Letters in a stretch, about seven words: independent texts on one subject share shorter phrases."""
_COVERED = 30
"""Letters of a stretch that runs must cover: all but one word."""
_NO_LETTER = re.compile(rf"(?:[^\w{MARKS}]|_)+")
_WEIGHTS = ((re.compile(f"([{HAN}])"), r"\1\1\1"), (re.compile(f"([{HIRAGANA}{KATAKANA}])"), r"\1\1"))


def find_quotation(texts: Iterable[str], sampled: Iterable[str]) -> str | None:
    """A stretch of a sampled text, as letters, that one of the texts quotes; None if there is none."""
    runs = [set(_runs(_letters(text))) for text in texts]
    for text in sampled:
        letters = _letters(text)
        for own in runs:
            if (start := _quoted_from(letters, own)) is not None:
                return letters[start : start + _STRETCH]
    return None


def _letters(text: str) -> str:
    letters = _NO_LETTER.sub("", folded(text))
    if not letters.isascii():
        for pattern, repeated in _WEIGHTS:
            letters = pattern.sub(repeated, letters)
    return letters


def _runs(letters: str) -> Iterator[str]:
    return (letters[i : i + _RUN] for i in range(len(letters) - _RUN + 1))


def _quoted_from(letters: str, runs: set[str]) -> int | None:
    """Where the first stretch begins that the runs cover; None without one."""
    covered = [0]
    end = 0
    for index in range(len(letters)):
        if letters[index : index + _RUN] in runs:
            end = index + _RUN
        covered.append(covered[-1] + (index < end))
        if covered[-1] - covered[max(0, index + 1 - _STRETCH)] >= _COVERED:
            return max(0, index + 1 - _STRETCH)
    return None
