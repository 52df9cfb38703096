"""Special tokens of the judge's own tokenizer in untrusted text (I4), besides the shapes that every text is rid of.

New models bring new tokens. So what has the shape of one, such as `<role>` or `[control_7]`, is shown to the engine's
tokenizer, and respelt where that takes it for one special token.
"""

import hashlib
import re
from collections.abc import Sequence

from services.kit.text.fence import utf8
from services.reward.judge.engine.base import Engine
from services.reward.judge.prompt import JudgeItem, PromptPart

_CANDIDATE = re.compile(r"<[^\s<>\[\]]{1,64}>|\[[^\s<>\[\]]{1,64}\]")
"""Bounded, so that the time is linear in the text. Neither kind holds the other, so that none hides another."""
_MAX_CANDIDATES = 512
"""A text with more different candidates is rid of all of them, without asking: no honest one has so many."""
_LOOKALIKES = str.maketrans("<>[]", "\u2039\u203a\u27e6\u27e7")


async def respelt_texts(engine: Engine, texts: Sequence[str]) -> list[str]:
    """The texts, in order, with what the engine takes for special tokens spelt with look-alike brackets."""
    candidates: list[frozenset[str]] = [
        frozenset(_CANDIDATE.findall(text) if "<" in text or "[" in text else ()) for text in texts
    ]
    few = sorted({token for own in candidates if len(own) <= _MAX_CANDIDATES for token in own})
    special = await engine.special_tokens(few) if few else frozenset()
    return [
        _respelt(text, own if len(own) > _MAX_CANDIDATES else own & special)
        for text, own in zip(texts, candidates, strict=True)
    ]


async def respelt_items(engine: Engine, items: Sequence[JudgeItem]) -> list[JudgeItem]:
    """The items with their texts respelt; most texts have no bracket, and nothing to be asked about."""
    if not any("<" in part.text or "[" in part.text for item in items for part in _texts(item)):
        return list(items)
    parts = list(dict.fromkeys(part for item in items for part in _texts(item)))
    texts = await respelt_texts(engine, [part.text for part in parts])
    changed = {part: _part(text) for part, text in zip(parts, texts, strict=True) if text != part.text}
    if not changed:
        return list(items)
    return [
        item._replace(
            task=changed.get(item.task, item.task),
            reference=None if item.reference is None else changed.get(item.reference, item.reference),
            response=changed.get(item.response, item.response),
        )
        for item in items
    ]


def _texts(item: JudgeItem) -> tuple[PromptPart, ...]:
    return tuple(part for part in (item.task, item.reference, item.response) if part is not None)


def _part(text: str) -> PromptPart:
    return PromptPart(text, hashlib.sha256(utf8(text)).hexdigest())


def _respelt(text: str, special: frozenset[str]) -> str:
    if not special:
        return text

    def spelling(match: re.Match[str]) -> str:
        token = match.group()
        return token.translate(_LOOKALIKES) if token in special else token

    return _CANDIDATE.sub(spelling, text)
