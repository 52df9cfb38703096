"""Control tokens of the chat templates in use, by kind: one list for the adapters and for the services.

Every quantifier is bounded, so that the time is linear in the text. The patterns ignore case where a template's tokens
cannot be told from prose by it.
"""

import re
from typing import Any

# Brackets and bars, with the compatibility forms that a normalising tokenizer turns into the plain ones.
LT, GT, BAR = "[<＜﹤]", "[>＞﹥]", "[|｜￨∣ǀ❘│]"
LB, RB, SLASH = r"[\[［﹇]", r"[\]］﹈]", "[/／]"
RESPELT = "‹›⟦⟧¦"
"""What services write in place of these characters. No pattern matches it, so a text is respelt only once."""

_WORD = r"[\w▁/.:-]{1,48}"

# The ends of a sequence, a turn or a text, and padding.
_ENDS = (
    "[be]os|eo[tpahmd]|pad|unk|cls|sep|(?:bos|eos|eop|eot|pad|unk)_token"
    "|end_?of_?(?:turn|text|message|sentence|utterance)"
)
# A family's reserved numbers: <SPECIAL_12>, <unused7>, [control_12].
_NUMBERED = r"(?:special|special_token|pad|unused|tokens_unused|reserved|reserved_token|control|extra_id)_?\d{1,6}"
# A family's name before a token's: <seed:eos>.
_NAMESPACED = rf"\w{{1,24}}:(?:{_ENDS}|[be]o[st])|(?:seed|minimax):\w{{1,24}}"
_TILDES = rf"{RB}~!?b{LB}|{RB}~b{RB}|{LB}e~{LB}"  # ]~b] ... [e~[

# Marks within a text: images, reasoning, tools, code, parts of a document.
_MARKS = (
    r"mask|mask_token|image|image_soft_token|img_context|(?:begin|beginning|start|end)_?of_?\w{1,32}|role"
    r"|longcat_\w{1,32}|think|tool_(?:call|response)|arg_(?:key|value)|sop|2mass|repo_?name|file_sep|filename|gh_stars"
    rf"|empty_output|(?:issue|jupyter|commit|fim)_\w{{1,12}}|pre|suf|mid|{LB}[^<>\[\]［］{RESPELT}\n]{{1,64}}{RB}"
)
_BRACKETED_MARKS = (
    "IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|PREFIX|MIDDLE|SUFFIX|SYSTEM_PROMPT|THINK|ARGS|CALL_ID|[gs]MASK"
    "|AVAILABLE_TOOLS|TOOL_(?:CALLS|CONTENT|RESULTS)|MODEL_SETTINGS|MASK|[@]BOS[@]"
)
_BRACKETED_ENDS = "INST|[BE]OS|EO[TDMP]|PAD|UNK|CLS|SEP"

CONTROL_TOKEN = re.compile(
    rf"{LT}{SLASH}?{BAR}[^<>＜＞|｜￨∣ǀ❘│{RESPELT}\n]{{1,64}}{BAR}{GT}"  # <|im_end|>
    rf"|{LT}{SLASH}?{BAR}[^\s<>＜＞{RESPELT}]{{1,64}}{GT}"  # <|turn>
    rf"|{LT}[\w/▁]{{1,40}}{BAR}{GT}"  # <turn|>
    rf"|{LT}{SLASH}?(?:s|{_ENDS}|{_NUMBERED}|{_NAMESPACED}|{_MARKS}){GT}"
    rf"|{LT}{LT}{SLASH}?SYS{GT}{GT}"
    rf"|{LB}{SLASH}?(?:(?-i:{_BRACKETED_ENDS}|{_BRACKETED_MARKS})|{_NUMBERED}|INST|SYSTEM_PROMPT|multimodal){RB}"
    rf"|{LB}{BAR}[^\[\]{RESPELT}\n]{{1,64}}?{BAR}{RB}"  # [|endofturn|]
    rf"|{BAR}{{3}}[A-Z_]{{2,24}}{BAR}{{3}}"  # |||EMAIL_ADDRESS|||
    rf"|{GT}{GT}(?-i:[A-Z]{{4,16}}){LT}{LT}"  # >>ABSTRACT<<
    rf"|{_TILDES}",
    re.IGNORECASE,
)
"""A control token of any kind, in any place of a text."""

_END_TOKEN = re.compile(
    rf"<[/]?[|｜]{_WORD}[|｜]?>"
    r"|<\w{1,40}[|｜]>"
    rf"|</?(?:s|{_ENDS}|{_NUMBERED}|{_NAMESPACED})>"
    rf"|\[/?(?-i:{_BRACKETED_ENDS})\]|\[{_NUMBERED}\]"
    r"|\[[|｜][a-z_]{3,32}[|｜]\]"
    rf"|{_TILDES}",
    re.IGNORECASE,
)
"""What a model writes at the end of its turn: a part of `CONTROL_TOKEN`, without marks that belong to an answer."""
_WINDOW = 2_000
"""Characters that are searched at a time, so that the rest of a completion is not."""


def strip_end_tokens(text: Any) -> Any:
    """A text without end-of-turn and padding tokens at its end, and the white space around those; others unchanged."""
    if not isinstance(text, str):
        return text
    end = len(text)
    while (start := _start_of_end_tokens(text, end)) < end:
        end = start
    return text[:end]


def _start_of_end_tokens(text: str, end: int) -> int:
    """Where the tokens before `end` start, as far as one window shows; `end` where there is none."""
    base = max(0, end - _WINDOW)
    window = text[base:end]
    start, last = end, len(window.rstrip())
    for token in reversed([match.span() for match in _END_TOKEN.finditer(window)]):
        if token[1] != last:
            break
        last = len(window[: token[0]].rstrip())
        start = base + last
    return start
