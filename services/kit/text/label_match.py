"""The verdict of a text: the last of a set of labels that it names. Pure, and linear in the text.

A label is named by its words, not by letters within another word: "wrong" is not in "wrongly". Scripts without blanks
have rules of their own, since a dictionary does not always part their words as the author of a label does:
a label of two or more ideographs counts anywhere, other labels only between two borders of words; and a prefix that
negates is part of the word: 不对 does not name 对. Korean words carry particles: 참입니다 names 참.
"""

import re
from collections import deque
from collections.abc import Iterable
from functools import lru_cache

from services.kit.text.folding import compatible
from services.kit.text.segments import HAN, HANGUL, UNSPACED, runs, split_unspaced

_BORDER = "\x1f"
"""Between the words of a run without blanks; no word holds it."""
_MAX_LABEL_SETS = 256
_HAN_NEGATION = "不没沒未非无無否别別"
_IDEOGRAPHS = re.compile(f"[{HAN}]{{2,}}")
_UNSPACED_LABEL = re.compile(f"[{UNSPACED}]+")
_HANGUL_END = re.compile(f"[{HANGUL}]$")
_PART = re.compile(f"[{UNSPACED}]+|[^{UNSPACED} ]+")
_ATTRIBUTE = re.compile("(?<=.)的$")
"""The particle 的, which the dictionary joins to some words: 真的."""
_KOREAN_PARTICLE = "[은는이가을를의도만과와로으에입임인였라다예요야](?![^ ]{5})"
"""The first syllable of a particle or of the copula, which are at most five long."""


def normalise(label: str) -> str:
    """A label in the form for comparisons: its words in lower case and compatibility form, without punctuation."""
    return " ".join(part for run in runs(compatible(label)) for part in _PART.findall(run))


def last_label(completion: str, labels: Iterable[str]) -> str | None:
    """The label that a completion names last, in normal form; None where it names none.

    One label may be a part of another ("correct", "not correct"): the longest counts.
    """
    pattern = _pattern(frozenset(map(normalise, labels)) - {""})
    text = " ".join(_with_borders(run) for run in normalise(completion).split(" "))
    last = deque(pattern.finditer(f" {text} "), maxlen=1)
    return last[0].group().replace(_BORDER, "") if last else None


@lru_cache(maxsize=_MAX_LABEL_SETS)
def _pattern(labels: frozenset[str]) -> re.Pattern[str]:
    """Matches any of the labels; at one place the longest first."""
    ordered = sorted(labels, key=lambda label: (-len(label), label))
    return re.compile("|".join(map(_label_pattern, ordered)) or r"(?!)")


def _label_pattern(label: str) -> str:
    if not _UNSPACED_LABEL.search(label):
        end = f"(?= |{_KOREAN_PARTICLE})" if _HANGUL_END.search(label) else "(?= )"
        return f"(?<= ){re.escape(label)}{end}"
    letters = f"{_BORDER}?".join(map(re.escape, label))
    negated = f"(?<![{_HAN_NEGATION}])(?<![{_HAN_NEGATION}]{_BORDER})"
    if _IDEOGRAPHS.fullmatch(label):
        return negated + letters
    return f"(?<=[ {_BORDER}]){negated}{letters}(?=[ {_BORDER}])"


def _with_borders(run: str) -> str:
    if not _UNSPACED_LABEL.fullmatch(run):
        return run
    return _BORDER.join(_ATTRIBUTE.sub(f"{_BORDER}的", word) for word in split_unspaced(run))
