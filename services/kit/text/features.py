"""Surface features of a text, for the checks (one completion) and the evidence (a window of traces). Pure."""

import re
import zlib
from collections.abc import Sequence

from services.kit.text.fence import utf8
from services.kit.text.segments import HAN, HANGUL, HIRAGANA, KATAKANA

_WHOLE = 64
_ALPHABETS = "\u0000-\u058f\u10a0-\u10ff\u1c80-\u1cbf\u1d00-\u1fff\u2c60-\u2c7f\u2d00-\u2d2f\ua640-\ua69f\ua720-\ua7ff"
_CONTENT_WORDS = (
    (re.compile(f"[{_ALPHABETS}]"), 4, 5),
    (re.compile(f"[{HAN}{KATAKANA}]"), 2, _WHOLE),
    (re.compile(f"[{HIRAGANA}]"), _WHOLE, _WHOLE),  # Japanese grammar
    (re.compile(f"[{HANGUL}]"), 2, 2),
)
"""By script, which words count as content, and how many of their first characters tell inflected forms of one word:
(first character, fewest characters, characters compared)."""
_OTHER_SCRIPTS = (3, 5)
"""The same for scripts that write vowels as marks or not at all."""
_FUNCTION_WORDS = frozenset(
    """
    about above after again against also another because been before being below between both cannot could does
    doing down during each essay explain describe discuss argue compare reflect short write words word paragraph
    every from further have having here himself into itself just many more most much must only other ourselves over
    same should some such than that their them then there these they this those through under until very were what
    when where which while whom whose will with would your yours
    """.split()  # noqa: SIM905 - a list of quoted words is harder to read
)


def distinct_share(tokens: Sequence[str], n: int) -> float:
    """Distinct n-grams per n-gram, in (0, 1]; 1 for a text shorter than n."""
    total = len(tokens) - n + 1
    if total <= 0:
        return 1.0
    return len({tuple(tokens[i : i + n]) for i in range(total)}) / total


def copied_share(completion: Sequence[str], prompt: Sequence[str], n: int = 5) -> float:
    """Share of the completion's n-grams that occur in the prompt, in [0, 1]."""
    total = len(completion) - n + 1
    if total <= 0:
        return 0.0
    known = {tuple(prompt[i : i + n]) for i in range(len(prompt) - n + 1)}
    return sum(tuple(completion[i : i + n]) in known for i in range(total)) / total


def topic_overlap(completion: Sequence[str], prompt: Sequence[str]) -> float:
    """Share of the prompt's content words whose stem the completion uses, in [0, 1]; 1 when it has none."""
    wanted = _stems(prompt)
    return len(wanted & _stems(completion)) / len(wanted) if wanted else 1.0


def compression_ratio(text: str) -> float:
    """Compressed bytes per byte: near 0 for repetition, about 0.5 to 0.7 for short prose."""
    raw = utf8(text)
    return len(zlib.compress(raw)) / len(raw) if raw else 1.0


def _stems(tokens: Sequence[str]) -> set[str]:
    stems = (_stem(word) for word in set(tokens) if word not in _FUNCTION_WORDS and not word.isdigit())
    return {stem for stem in stems if stem}


def _stem(word: str) -> str:
    """The start by which a content word is compared; empty for other words."""
    limits = next(((fewest, length) for script, fewest, length in _CONTENT_WORDS if script.match(word)), _OTHER_SCRIPTS)
    return word[: limits[1]] if len(word) >= limits[0] else ""
