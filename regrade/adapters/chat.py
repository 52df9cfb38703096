"""Takes trainers' texts, which a chat template may have rendered, apart into turns. Pure.

A prompt comes from the dataset, so its turns are trusted. A completion comes from the policy: only the end tokens are
removed, and the judge sees everything else inside a fence.
"""

import re
from collections.abc import Iterable
from typing import Any

from regrade.contracts.content import MAX_TURNS, turn_role
from regrade.control_tokens import strip_end_tokens

_TURN = re.compile(
    r"(?:<\|im_start\|>(?P<chatml>\w{1,16})\n"
    r"|<\|start_header_id\|>(?P<llama>\w{1,16})<\|end_header_id\|>\n\n"
    r"|<start_of_turn>(?P<gemma>\w{1,16})\n)"
)
_PROMPT_TAIL = 200
"""Characters of a prompt that identify it where a trainer has cut its beginning off."""


def parse_prompt(prompt: Any) -> Any:
    """The turns of a text that a known template (ChatML, Llama 3, Gemma) has rendered; any other prompt unchanged."""
    if not isinstance(prompt, str):
        return prompt
    starts = list(_TURN.finditer(prompt))
    if not starts or strip_end_tokens(prompt[: starts[0].start()]).strip():
        return prompt
    bounds = [start.start() for start in starts[1:]] + [len(prompt)]
    turns = [
        {"role": role, "content": content}
        for start, end in zip(starts, bounds, strict=True)
        if (content := strip_end_tokens(prompt[start.end() : end]).strip())
        and (role := turn_role({"role": start["chatml"] or start["llama"] or start["gemma"]}, ""))
    ]
    return turns if 1 <= len(turns) <= MAX_TURNS else prompt


def split_prompt(messages: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """The turns before the policy's first turn, and the rest."""
    turns = list(messages)
    first = next((index for index, turn in enumerate(turns) if turn_role(turn) == "assistant"), len(turns))
    return turns[:first], turns[first:]


def completion_after_prompt(query: str, prompt: str) -> str | None:
    """What follows `prompt` in `query`, or None if the prompt is not in it.

    A trainer may have cut the prompt's beginning off, put a token before it, or lost white space in decoding.
    """
    for part in (prompt, prompt[-_PROMPT_TAIL:]):
        start = query.find(part)
        if part and start >= 0:
            return query[start + len(part) :]
    return _after_prompt_ignoring_whitespace(query, prompt) if prompt.strip() else query


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
