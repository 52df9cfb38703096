"""Fences around untrusted text, and neutralisation of what could break out of them (I4). Pure.

Every pattern is bounded, so that the time is linear in the text. A text of plain characters is recognised by two
passes over its bytes, without any pattern.
"""

import hashlib
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from regrade.contracts import Flag
from regrade.control_tokens import BAR, CONTROL_TOKEN, LB, RB, RESPELT, SLASH

_CODE_CHARS = 10  # 47 bits; letters cost fewer tokens than hex digits
_LETTERS = bytes(ord("a") + byte % 26 for byte in range(256))
_MAX_BLANKS = 64
_MAX_MARKS = 4

# What looks like one of our markers. Without the key it is no forgery, but a weak judge may not compare the codes.
_MARKER = re.compile(
    rf"{LB}[ \t]{{0,4}}{SLASH}?(?:BEGIN|END)[ \t_-]{{1,4}}(?:OF[ \t_-]{{1,4}})?(?:THE[ \t_-]{{1,4}})?"
    rf"(?:TASK|RESPONSE|ANALYSIS|PROPOSALS|CRITERION|RUBRIC|PLAN|REFERENCE|RATIONALE)[^\[\]［］{RESPELT}\n]{{0,40}}{RB}",
    re.IGNORECASE,
)
# Never legitimate in a completion: Unicode tags, bidirectional controls, invisible letters and operators, control
# codes but tab and line ends, halves of surrogate pairs.
_HIDDEN = (
    "\U000e0000-\U000e007f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff"
)
# Legitimate within Indic and Persian words and emoji: joiners, and one variation selector at a time.
_JOINERS = "\u200c\u200d"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_INVISIBLE = re.compile(f"[{_HIDDEN}{_JOINERS}{_SELECTORS}]+")
_LEGITIMATE_RUN = re.compile(f"[{_SELECTORS}]?[{_JOINERS}]?")
_SELECTOR_AT_ASCII = re.compile("[0-9#*]\ufe0f\u20e3")
_COMBINING = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_MARKS = re.compile(rf"([{_COMBINING}]{{{_MAX_MARKS}}})[{_COMBINING}]+")
_BLANKS = re.compile(rf"([\s\u2800]{{{_MAX_BLANKS}}})[\s\u2800]+")

_VISIBLE = str.maketrans("<>[]|＜﹤＞﹥［﹇］﹈｜￨∣ǀ❘│", "‹›⟦⟧¦‹‹››⟦⟦⟧⟧¦¦¦¦¦¦")
_PLAIN = bytes(code for code in range(0x20, 0x7F) if chr(code) not in "<[]|") + b"\t\n\r"
_BLANK = bytes.maketrans(b"\t\n\r", b"   ")
_FLOOD = b" " * (_MAX_BLANKS + 1)
_SUSPECT = re.compile(
    f"[<＜﹤\\[［﹇{_HIDDEN}{_JOINERS}{_SELECTORS}{_COMBINING}\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000]"
)
_HALF_A_PAIR = re.compile(f"{RB}|{BAR}")
_SUSPECT_PAIR = re.compile(rf"{RB}[~～]|{BAR}{{3}}")
_SUSPECT_ASCII_PAIRS = (b"]~", b"|||")


def _compatibility_forms() -> dict[int, str]:
    """What a tokenizer that normalises (NFKC) reads in place of a character, where that is ASCII but not a blank."""
    forms = ((code, unicodedata.normalize("NFKC", chr(code))) for code in range(0x80, 0x20000))
    return {code: form for code, form in forms if form.isascii() and form.strip()}


_COMPATIBILITY = _compatibility_forms()
_COMPATIBILITY_CHARS = frozenset(map(chr, _COMPATIBILITY))


class Neutralised(NamedTuple):
    """A text without control tokens and hidden characters, and a flag for each kind that was removed."""

    text: str
    flags: tuple[Flag, ...]


def neutralise(text: str) -> Neutralised:
    """Drop hidden characters, shorten floods, and respell control tokens and markers so that they have no effect.

    Idempotent, and linear in the text.
    """
    if is_plain(utf8(text)):
        return Neutralised(text, ())
    flags = []
    visible = _without_hidden(text)
    if visible != text:
        flags.append(Flag.HIDDEN_UNICODE)
    short, floods = _BLANKS.subn(r"\1", _MARKS.sub(r"\1", visible))
    if floods or len(short) != len(visible):
        flags.append(Flag.FLOOD)
    safe = respell(CONTROL_TOKEN, short)
    if safe != short:
        flags.append(Flag.CONTROL_TOKENS)
    unmarked = respell(_MARKER, safe)
    if unmarked != safe:
        flags.append(Flag.FENCE_SPOOF)
    return Neutralised(unmarked, tuple(flags))


def respell(pattern: re.Pattern[str], text: str) -> str:
    """The text with other brackets and bars in what the pattern matches, also after normalisation (NFKC)."""
    return _replaced(pattern, text, lambda match: match.translate(_VISIBLE))


def utf8(text: str) -> bytes:
    """A text as UTF-8; lone surrogates are encoded, too."""
    return text.encode("utf-8", "surrogatepass")


def is_plain(raw: bytes) -> bool:
    """Whether `neutralise` cannot change the text. Cheap, and true of most prose."""
    if _FLOOD in raw.translate(_BLANK):
        return False
    unusual = raw.translate(None, _PLAIN).decode("utf-8", "surrogatepass")
    if not unusual:
        return True
    if _SUSPECT.search(unusual):
        return False
    if not _HALF_A_PAIR.search(unusual):
        return True
    if raw.isascii():
        return not any(pair in raw for pair in _SUSPECT_ASCII_PAIRS)
    return not _SUSPECT_PAIR.search(raw.decode("utf-8", "surrogatepass"))


def without_control_tokens(text: str) -> str:
    """A text with control tokens and hidden characters removed."""
    return _replaced(CONTROL_TOKEN, _without_hidden(text), lambda match: "")


def fence(label: str, text: str, key: bytes) -> str:
    """Neutralise a text and enclose it in markers that carry a keyed hash of it, so that it cannot forge them."""
    safe = neutralise(text).text
    return enclose(label, safe, hashlib.sha256(utf8(safe)).digest(), key)


def enclose(label: str, safe: str, digest: bytes, key: bytes) -> str:
    """`fence` for a neutralised text with the SHA-256 `digest`."""
    keyed = hashlib.blake2b(digest, digest_size=_CODE_CHARS, key=blake2b_key(key), person=label.encode()).digest()
    code = keyed.translate(_LETTERS).decode()
    return f"[BEGIN {label} {code}]\n{safe}\n[END {label} {code}]"


def blake2b_key(key: bytes) -> bytes:
    """A key that BLAKE2b takes: one of more than 64 bytes is hashed."""
    return key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.sha256(key).digest()


def _replaced(pattern: re.Pattern[str], text: str, replace: Callable[[str], str]) -> str:
    """The text with each match replaced, where the pattern reads compatibility forms as the ASCII they stand for."""
    if text.isascii() or _COMPATIBILITY_CHARS.isdisjoint(text):
        return pattern.sub(lambda match: replace(match.group()), text)
    normal = text.translate(_COMPATIBILITY)
    # Where each character of the text begins in its normal form, which is longer where a ligature stands for letters.
    starts = [0, *accumulate(len(_COMPATIBILITY.get(ord(char), char)) for char in text)]
    parts, last = [], 0
    for match in pattern.finditer(normal):
        start, end = bisect_right(starts, match.start()) - 1, bisect_left(starts, match.end())
        parts += [text[last:start], replace(text[start:end])]
        last = end
    return "".join([*parts, text[last:]])


def _without_hidden(text: str) -> str:
    return _INVISIBLE.sub(_legitimate_part, text)


def _legitimate_part(match: re.Match[str]) -> str:
    """What scripts and emoji need of a run of invisible characters: one selector, one joiner, no ASCII neighbour."""
    text, start, end = match.string, match.start(), match.end()
    run = match.group()
    if start == 0 or not _LEGITIMATE_RUN.fullmatch(run):
        return ""
    if text[start - 1].isascii():
        return run if _SELECTOR_AT_ASCII.match(text, start - 1) else ""
    if run[-1] in _JOINERS and (end == len(text) or text[end].isascii()):
        return run[:-1]
    return run
