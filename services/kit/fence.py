"""Fences round text that nobody vouches for, and the removal of what could reach past them (I4). Pure."""

import hmac
import re
from typing import NamedTuple

from regrade.contracts import Flag

_CODE_CHARS = 10  # 47 bits, in letters: a tokenizer takes fewer tokens for them than for hex
_LETTERS = bytes(ord("a") + byte % 26 for byte in range(256))

# Special tokens of the models in use: ChatML and Llama 3, Llama 2 and Mistral, Gemma, DeepSeek, GLM, T5,
# StarCoder and SmolLM.
_CONTROL_TOKEN = re.compile(
    r"<\|[^<>|\n]{1,64}\|>|<｜[^<>｜\n]{1,64}｜>|</?s>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>"
    r"|<(?:bos|eos|pad|unk|mask|image)>|\[/?(?:gMASK|sMASK|AVAILABLE_TOOLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"
    r"|</?(?:think|tool_call|tool_response)>|<(?:unused|extra_id_)\d{1,3}>"
    r"|<(?:repo_?name|file_sep|filename|gh_stars|issue_\w{1,12}|jupyter_\w{1,12}|empty_output|commit_\w{1,12}"
    r"|fim_\w{1,12})>",
    re.IGNORECASE,
)
# Unicode tags, bidirectional controls, zero-width and invisible characters, and control codes but tab and newline.
_HIDDEN = re.compile(
    "[\U000e0000-\U000e007f\u061c\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f\u2060-\u2064\ufeff"
    "\u0000-\u0008\u000b-\u001f\u007f-\u009f]"
)
_VISIBLE = str.maketrans("<>[]｜", "‹›⟦⟧¦")


class Neutralised(NamedTuple):
    """A text without control tokens and hidden characters, and flags for what was found."""

    text: str
    flags: tuple[Flag, ...]


def neutralise(text: str) -> Neutralised:
    """Drop hidden characters, and spell control tokens so that no tokenizer takes them for one."""
    visible, hidden = _HIDDEN.subn("", text)
    safe, tokens = _CONTROL_TOKEN.subn(lambda match: match.group().translate(_VISIBLE), visible)
    flags = (Flag.CONTROL_TOKENS,) * bool(tokens) + (Flag.HIDDEN_UNICODE,) * bool(hidden)
    return Neutralised(safe, flags)


def without_control_tokens(text: str) -> str:
    """What is left of a text when control tokens and hidden characters are taken out."""
    return _CONTROL_TOKEN.sub("", _HIDDEN.sub("", text))


def fence(label: str, text: str, key: bytes) -> str:
    """Enclose a neutralised text in markers with a keyed hash of it: it cannot hold its own closing marker."""
    safe = neutralise(text).text
    keyed = hmac.digest(key, f"{label}\n{safe}".encode("utf-8", "surrogatepass"), "sha256")
    code = keyed[:_CODE_CHARS].translate(_LETTERS).decode()
    return f"[BEGIN {label} {code}]\n{safe}\n[END {label} {code}]"
