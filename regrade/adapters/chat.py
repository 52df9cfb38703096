"""Converts trainers' prompts and completions, which may be rendered by a chat template, to text or conversations. Pure.

A prompt comes from the dataset, so its turns are trusted. A completion comes from the policy: only the end tokens are
removed, and the judge sees everything else inside a fence.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from regrade.contracts import Conversation, Message
from regrade.control_tokens import strip_end_tokens

_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "model": "assistant", "tool": "tool"}
_ROLES |= {"developer": "system", "ipython": "tool"}
_TURN = re.compile(
    r"(?:<\|im_start\|>(?P<chatml>\w{1,16})\n"
    r"|<\|start_header_id\|>(?P<llama>\w{1,16})<\|end_header_id\|>\n\n"
    r"|<start_of_turn>(?P<gemma>\w{1,16})\n)"
)
_PROMPT_TAIL = 200
"""Characters of a prompt that identify it where a trainer has cut its beginning off."""
_MAX_TURNS = 256


def parse_prompt(prompt: Any) -> str | Conversation:
    """A prompt in any form: turns, text rendered by a known template (ChatML, Llama 3, Gemma), or plain text."""
    if not isinstance(prompt, str):
        return to_conversation(prompt)
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
    return tuple(turns) if 1 <= len(turns) <= _MAX_TURNS else prompt


def to_conversation(messages: Iterable[Mapping[str, Any]]) -> Conversation:
    """Turns in OpenAI's form: content as text, as parts or missing; a tool call becomes its name and arguments."""
    return tuple(Message(role=_ROLES.get(str(turn["role"]), "user"), content=_turn_text(turn)) for turn in messages)


def split_prompt(messages: Iterable[Mapping[str, Any]]) -> tuple[Conversation, Conversation]:
    """The turns before the policy's first turn, and the rest."""
    turns = to_conversation(messages)
    first = next((index for index, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    return turns[:first], turns[first:]


def text_or_conversation(content: Any) -> str | Conversation:
    """Text unchanged, turns as a conversation (a list or, from a data frame, an array)."""
    return content if isinstance(content, str) else to_conversation(content)


def reference_of(label: Any) -> str | None:
    """A label as a reference; None unless it is a non-empty text."""
    return label if isinstance(label, str) and label else None


def completion_after_prompt(query: str, prompt: str) -> str | None:
    """What follows `prompt` in `query`, or None if the prompt is not in it.

    A trainer may have cut the prompt's beginning off, put a token before it, or lost white space in decoding.
    """
    for part in (prompt, prompt[-_PROMPT_TAIL:]):
        start = query.find(part)
        if part and start >= 0:
            return query[start + len(part) :]
    return _after_prompt_ignoring_whitespace(query, prompt) if prompt.strip() else query


def _turn_text(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    texts = [content] if isinstance(content, str) else [str(part.get("text") or "") for part in content or []]
    calls = [call.get("function", call) for call in turn.get("tool_calls") or []]
    texts += [f"{call.get('name')}({_arguments(call.get('arguments'))})" for call in calls]
    return "\n".join(text for text in texts if text)


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _after_prompt_ignoring_whitespace(query: str, prompt: str) -> str | None:
    remaining = iter("".join(prompt.split()))
    expected = next(remaining)
    for index, letter in enumerate(query):
        if letter.isspace():
            continue
        if letter != expected:
            return None
        expected = next(remaining, "")
        if not expected:
            return query[index + 1 :]
    return None
