"""Takes apart what a chat template has put together, since some trainers send rendered text instead of turns. Pure.

A prompt comes from the dataset, so its turns are believed. Of a completion, which a policy wrote, only the tokens
that end it are taken away: whatever else it holds is the judge's to see, fenced.
"""

import re

from regrade.contracts import Conversation, Message

_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "model": "assistant", "tool": "tool"}
_ROLES |= {"developer": "system", "ipython": "tool"}
_TURN = re.compile(
    r"(?:<\|im_start\|>(?P<chatml>\w{1,16})\n"
    r"|<\|start_header_id\|>(?P<llama>\w{1,16})<\|end_header_id\|>\n\n"
    r"|<start_of_turn>(?P<gemma>\w{1,16})\n)"
)
_END = re.compile(
    r"(?:\s{0,8}(?:<\|[a-z_]{1,32}\|>|</?s>|<(?:end_of_turn|eos|pad|bos)>|<\uff5c[^<>\n]{1,32}\uff5c>)){1,64}\s{0,8}$"
)
_TAIL = 200
_LOOK_BACK = 2_000


def without_end(completion: str) -> str:
    """The completion without the tokens that end a turn, and padding behind them."""
    last = completion[-_LOOK_BACK:]
    return completion[: len(completion) - len(last)] + _END.sub("", last)


def unwrapped(prompt: str) -> str | Conversation:
    """The turns of a prompt rendered by a known template (ChatML, Llama 3, Gemma), else the prompt itself."""
    starts = list(_TURN.finditer(prompt))
    if not starts or without_end(prompt[: starts[0].start()]).strip():
        return prompt
    bounds = [start.start() for start in starts[1:]] + [len(prompt)]
    turns = [
        Message(role=role, content=content)
        for start, end in zip(starts, bounds, strict=True)
        if (content := without_end(prompt[start.end() : end]).strip())
        and (role := _ROLES.get(start["chatml"] or start["llama"] or start["gemma"]))
    ]
    return tuple(turns) if 1 <= len(turns) <= 256 else prompt


def completion_of(query: str, prompt: str) -> str | None:
    """What follows `prompt` in `query`; None where the prompt is not in it.

    A trainer may have cut the prompt's beginning off, put a token before it, or lost white space in decoding.
    """
    for known in (prompt, prompt[-_TAIL:]):
        at = query.find(known)
        if known and at >= 0:
            return query[at + len(known) :]
    return _after_letters(query, prompt) if prompt.strip() else query


def _after_letters(query: str, prompt: str) -> str | None:
    """As `completion_of`, by all that is no white space, from the query's beginning."""
    wanted = iter("".join(prompt.split()))
    following = next(wanted)
    for at, letter in enumerate(query):
        if letter.isspace():
            continue
        if letter != following:
            return None
        following = next(wanted, "")
        if not following:
            return query[at + 1 :]
    return None
