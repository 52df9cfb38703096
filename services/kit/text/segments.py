"""Words and sentences of a text in any script. Pure, and linear in the text.

A *word* is a run of letters, digits and marks; hyphens and apostrophes join. In scripts that write no blanks between
words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) ICU's dictionaries part such a run.
A *sentence* ends at any sentence terminator of Unicode. Thai and Lao have none in use: there a blank ends one.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from icu4py.breakers import SentenceBreaker, WordBreaker

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
HIRAGANA = "\u3040-\u309f"
KATAKANA = "\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_GREEK = "\u0370-\u03ff\u1f00-\u1fff"
_THAI_AND_LAO = "\u0e00-\u0eff"
_OTHER_UNSPACED = "\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aad\ua9e0-\ua9fe\uaa60-\uaadf"
UNSPACED = f"{HAN}{HIRAGANA}{KATAKANA}{_THAI_AND_LAO}{_OTHER_UNSPACED}"
"""Character class of the scripts without blanks between words."""
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"

_ROOT_LOCALE = "und"


def _by_category() -> dict[str, list[str]]:
    """The characters of each general category, of the planes that hold marks and punctuation."""
    chars: defaultdict[str, list[str]] = defaultdict(list)
    for char in map(chr, range(0x20000)):
        chars[unicodedata.category(char)].append(char)
    return chars


def character_class(chars: Iterable[str]) -> str:
    """The characters, which are in order, as the inside of a regular expression's class."""
    ranges: list[list[int]] = []
    for code in map(ord, chars):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges)


def _is_terminator(char: str) -> bool:
    return len(list(SentenceBreaker(f"a{char} A", _ROOT_LOCALE))) > 1


_CHARS = _by_category()
MARKS = character_class(sorted(_CHARS["Mn"] + _CHARS["Mc"] + _CHARS["Me"]))
"""Character class of the marks that modify the letter before them: vowel signs, accents, points."""
_JOINERS = "\u200c\u200d\u00ad\u2060"
_ASCII_WORD = re.compile(r"\w+(?:['-]\w+)*")
_WORD = re.compile(rf"\w[\w{MARKS}{_JOINERS}]*(?:['’-]\w[\w{MARKS}{_JOINERS}]*)*")
_HAS_UNSPACED = re.compile(f"[{UNSPACED}]")

_ELLIPSIS = "…"
_TIBETAN_SHAD = "\u0f0d"
_TERMINATORS = "".join(filter(_is_terminator, _CHARS["Po"])) + _ELLIPSIS + _TIBETAN_SHAD
_BEFORE_A_BLANK = ".!?․" + _ELLIPSIS
"""Terminators that end a sentence only before a blank or a closing mark: they also stand in numbers and names."""
_CLOSERS = "".join(_CHARS["Pe"] + _CHARS["Pf"]) + "\"'"
_BLANKS = "".join(filter(str.isspace, _CHARS["Cc"] + _CHARS["Zs"] + _CHARS["Zl"] + _CHARS["Zp"]))
_EMPHASIS = "*_`~"
_EMOJI = "".join(_CHARS["So"] + _CHARS["Sk"]) + "\ufe0f\u200d"
_CLOSING = _CLOSERS + _BLANKS + "".join(_CHARS["Pi"]) + _EMPHASIS + "„" + _EMOJI
_AFTER_A_STOP = rf"[{re.escape(_EMPHASIS)}]*+(?:[\s{re.escape(_CLOSERS)}]|\Z)|\[\d"
"""A blank or closing mark, behind emphasis or not, or a footnote's number."""
_T = re.escape(_TERMINATORS)
_UNCONDITIONAL = re.escape("".join(sorted(set(_TERMINATORS) - set(_BEFORE_A_BLANK) - {"．"})))
# A run of terminators is matched whether it ends a sentence or not, so that no run is searched twice.
_SENTENCE_END = re.compile(rf"[{_T}]++(?:(?<=[{_UNCONDITIONAL}])()|(?<=．)(?!\d)()|(?={_AFTER_A_STOP})())?")
_COMMON_SENTENCE_END = re.compile(rf"[.!?…]++((?={_AFTER_A_STOP}))?")
_UNCOMMON = re.compile(rf"(?![.!?…])[{_T}]")
_FOOTNOTES = re.compile(r"(?:\[\d{1,4}\])+\Z")
_NOTES_CHARS = 64
"""A text's end, as far as numbers of footnotes are taken off it."""
_HAS_GREEK, _HAS_THAI_OR_LAO = re.compile(f"[{_GREEK}]"), re.compile(f"[{_THAI_AND_LAO}]")
_GREEK_QUESTION = re.compile(rf"[{_GREEK}];")
_THAI_PHRASE_END = re.compile(rf"[{_THAI_AND_LAO}](?=\s+[{_THAI_AND_LAO}]|\s*\Z)")
_QUESTIONS = re.escape("".join(char for char in _TERMINATORS if "QUESTION" in unicodedata.name(char)))
_ENDINGS = [
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("empty", r"\A\Z"),
        ("question", rf"[{_QUESTIONS}]\Z|[{_GREEK}];\Z"),
        ("sentence", rf"[{_T}]\Z"),
        ("unmarked", rf"[{_THAI_AND_LAO}]\Z"),
        ("colon", r"[:：]\Z"),
        ("word", rf"[\w{MARKS}]\Z"),
    )
]


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, in order."""
    whole = runs(text)
    if text.isascii() or not _HAS_UNSPACED.search(_charset(text)):
        return whole
    return [word for run in whole for word in (split_unspaced(run) if _HAS_UNSPACED.search(run) else (run,))]


def runs(text: str) -> list[str]:
    """The runs of letters, digits and marks, lower-cased: words, and what scripts without blanks write together."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())


def split_unspaced(run: str) -> list[str]:
    """The words of a run of letters without blanks, by ICU's dictionaries."""
    return [word for word in WordBreaker(run, _ROOT_LOCALE) if word[0].isalnum()]


def sentence_count(text: str) -> int:
    """The number of finished sentences."""
    text, charset = text.strip(), _charset(text)
    unmarked = len(_GREEK_QUESTION.findall(text)) if _HAS_GREEK.search(charset) else 0
    if _HAS_THAI_OR_LAO.search(charset):
        unmarked += len(_THAI_PHRASE_END.findall(text))
    pattern = _SENTENCE_END if _UNCOMMON.search(charset) else _COMMON_SENTENCE_END
    return unmarked + sum(match.lastindex is not None for match in pattern.finditer(text))


def ends_properly(text: str) -> bool:
    """Whether the last sentence is finished (closing quotes, brackets and emphasis aside).

    True of a text that ends in Thai or Lao letters, which have no mark for it.
    """
    return ending_kind(text) in ("sentence", "question", "unmarked")


def ending_kind(text: str) -> str:
    """How a text ends, without closing marks.

    One of: sentence, question, unmarked (Thai and Lao), colon, word, other, empty.
    """
    text = text.rstrip()
    if text.endswith("]"):
        text = text[:-_NOTES_CHARS] + _FOOTNOTES.sub("", text[-_NOTES_CHARS:])
    end = text.rstrip(_CLOSING)[-2:]
    return next((kind for kind, pattern in _ENDINGS if pattern.search(end)), "other")


def _charset(text: str) -> str:
    """Each character of the text once: cheap, and quicker to search than the text."""
    return "".join(set(text))
