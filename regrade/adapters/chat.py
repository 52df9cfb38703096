"""Takes apart what a chat template has put together, since some trainers send rendered text instead of turns. Pure.

A prompt comes from the dataset, so its turns are believed. Of a completion, which a policy wrote, only the tokens
that end it are taken away: whatever else it holds is the judge's to see, fenced.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

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


def strip_end_tokens(completion: str) -> str:
    """The completion without the tokens that end a turn, and padding behind them."""
    last = completion[-_LOOK_BACK:]
    return completion[: len(completion) - len(last)] + _END.sub("", last)


def parse_rendered_prompt(prompt: str) -> str | Conversation:
    """The turns of a prompt rendered by a known template (ChatML, Llama 3, Gemma), else the prompt itself."""
    starts = list(_TURN.finditer(prompt))
    if not starts or strip_end_tokens(prompt[: starts[0].start()]).strip():
        return prompt
    bounds = [start.start() for start in starts[1:]] + [len(prompt)]
    turns = [
        Message(role=role, content=content)
        for start, end in zip(starts, bounds, strict=True)
        if (content := strip_end_tokens(prompt[start.end() : end]).strip())
        and (role := _ROLES.get(start["chatml"] or start["llama"] or start["gemma"]))
    ]
    return tuple(turns) if 1 <= len(turns) <= 256 else prompt


def to_conversation(messages: Iterable[Mapping[str, Any]]) -> Conversation:
    """Turns as trainers have them: content as text, as parts or missing; a call of a tool as its name and arguments."""
    told = [Message(role=_ROLES.get(str(turn["role"]), "user"), content=_turn_text(turn)) for turn in messages]
    return tuple(told)


def split_prompt(messages: Iterable[Mapping[str, Any]]) -> tuple[Conversation, Conversation]:
    """The turns up to the policy's first, and those from there on."""
    turns = list(to_conversation(messages))
    first = next((at for at, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    return tuple(turns[:first]), tuple(turns[first:])


def text_or_conversation(content: Any) -> str | Conversation:
    """Text as it is, turns as a conversation (also those of a data frame, an array of them)."""
    return content if isinstance(content, str) else to_conversation(content)


def completion_after_prompt(query: str, prompt: str) -> str | None:
    """What follows `prompt` in `query`; None where the prompt is not in it.

    A trainer may have cut the prompt's beginning off, put a token before it, or lost white space in decoding.
    """
    for known in (prompt, prompt[-_TAIL:]):
        at = query.find(known)
        if known and at >= 0:
            return query[at + len(known) :]
    return _after_prompt_ignoring_whitespace(query, prompt) if prompt.strip() else query


def _turn_text(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    parts = [content] if isinstance(content, str) else [str(part.get("text") or "") for part in content or []]
    calls = [call.get("function", call) for call in turn.get("tool_calls") or []]
    parts += [f"{call.get('name')}({_arguments(call.get('arguments'))})" for call in calls]
    return "\n".join(part for part in parts if part)


def _arguments(told: Any) -> str:
    return told if isinstance(told, str) else json.dumps(told)


def _after_prompt_ignoring_whitespace(query: str, prompt: str) -> str | None:
    """As `completion_after_prompt`, by all that is no white space, from the query's beginning."""
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
