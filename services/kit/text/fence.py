"""Fences around untrusted text, and neutralisation of what could break out of them (I4). Pure.

Every pattern is bounded, so that the time is linear in the text. A text of plain characters is recognised by two
passes over its bytes, without any pattern.
"""

import hashlib
import re
from typing import NamedTuple

from regrade.contracts import Flag

_CODE_CHARS = 10  # 47 bits; letters cost fewer tokens than hex digits
_LETTERS = bytes(ord("a") + byte % 26 for byte in range(256))
_MAX_BLANKS = 64
_MAX_MARKS = 4

# Brackets and bars, with the compatibility forms that a normalising tokenizer turns into the plain ones.
_LT, _GT, _BAR = "[<＜﹤]", "[>＞﹥]", "[|｜￨∣ǀ❘│]"
_LB, _RB, _SLASH = r"[\[［﹇]", r"[\]］﹈]", "[/／]"
_RESPELT = "‹›⟦⟧¦"  # the replacements; no pattern matches them, so neutralising twice changes nothing

# Control tokens of the chat templates in use. Most have one of a few shapes; the others are listed.
_BRACKETED = (
    "INST|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|PREFIX|MIDDLE|SUFFIX|SYSTEM_PROMPT|THINK|ARGS|CALL_ID|[gs]MASK"
    "|AVAILABLE_TOOLS|TOOL_(?:CALLS|CONTENT|RESULTS)|MODEL_SETTINGS|BOS|EOS|EOT|PAD|UNK|CLS|SEP|MASK"
    "|[@]BOS[@]"
)
_ANGLED = (
    "s|bos|eos|pad|unk|cls|sep|mask|mask_token|image|start_of_(?:turn|image)|end_of_(?:turn|image)|image_soft_token"
    "|img_context|(?:bos|eos|eop|eot|pad|unk)_token|think|tool_(?:call|response)|arg_(?:key|value)|sop|eop|eo[ahm]"
    r"|unused_?\d{1,4}|extra_id_\d{1,4}|special_\d{1,4}|tokens_unused_\d{1,4}|reserved_\d{1,4}|2mass"
    r"|repo_?name|file_sep|filename|gh_stars|empty_output|(?:issue|jupyter|commit|fim)_\w{1,12}|pre|suf|mid|eot"
    rf"|(?:seed|minimax):\w{{1,24}}|{_LB}[^<>\[\]［］{_RESPELT}\n]{{1,64}}{_RB}"
)
_CONTROL_TOKEN = re.compile(
    rf"{_LT}{_SLASH}?{_BAR}[^<>＜＞|｜￨∣ǀ❘│{_RESPELT}\n]{{1,64}}{_BAR}{_GT}"  # <|im_end|>
    rf"|{_LT}{_SLASH}?{_BAR}[^\s<>＜＞{_RESPELT}]{{1,64}}{_GT}"  # <|turn>
    rf"|{_LT}[\w/▁]{{1,40}}{_BAR}{_GT}"  # <turn|>
    rf"|{_LT}{_SLASH}?(?:{_ANGLED}){_GT}"
    rf"|{_LT}{_LT}{_SLASH}?SYS{_GT}{_GT}"
    rf"|{_LB}{_SLASH}?(?:(?-i:{_BRACKETED})|INST|SYSTEM_PROMPT|multimodal){_RB}"
    rf"|{_LB}{_BAR}[^\[\]{_RESPELT}\n]{{1,64}}?{_BAR}{_RB}"  # [|endofturn|]
    rf"|{_BAR}{{3}}[A-Z_]{{2,24}}{_BAR}{{3}}"  # |||EMAIL_ADDRESS|||
    rf"|{_GT}{_GT}(?-i:[A-Z]{{4,16}}){_LT}{_LT}"  # >>ABSTRACT<<
    rf"|{_RB}~!?b{_LB}|{_RB}~b{_RB}|{_LB}e~{_LB}",
    re.IGNORECASE,
)
# What looks like one of our markers. Without the key it is no forgery, but a weak judge may not compare the codes.
_MARKER = re.compile(
    rf"{_LB}[ \t]{{0,4}}{_SLASH}?(?:BEGIN|END)[ \t_-]{{1,4}}(?:OF[ \t_-]{{1,4}})?(?:THE[ \t_-]{{1,4}})?"
    rf"(?:TASK|RESPONSE|ANALYSIS|PROPOSALS|CRITERION|RUBRIC|PLAN|REFERENCE|RATIONALE)[^\[\]［］{_RESPELT}\n]{{0,40}}{_RB}",
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
_HALF_A_PAIR = re.compile("[\\]］|｜]")
_SUSPECT_PAIRS = tuple(pair.encode() for pair in ("]~", "］~", "|||", "｜｜｜"))


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
    safe, tokens = _CONTROL_TOKEN.subn(_respelt, short)
    if tokens:
        flags.append(Flag.CONTROL_TOKENS)
    safe, markers = _MARKER.subn(_respelt, safe)
    if markers:
        flags.append(Flag.FENCE_SPOOF)
    return Neutralised(safe, tuple(flags))


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
    return not _HALF_A_PAIR.search(unusual) or not any(pair in raw for pair in _SUSPECT_PAIRS)


def without_control_tokens(text: str) -> str:
    """A text with control tokens and hidden characters removed."""
    return _CONTROL_TOKEN.sub("", _without_hidden(text))


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


def _respelt(match: re.Match[str]) -> str:
    return match.group().translate(_VISIBLE)


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
