"""The two identities: an item's (what a retry repeats) and a judgement's (what an engine call answers). Pure."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from regrade.contracts import Conversation, Mode, ScoreItem, ScoreRequest, as_text
from services.reward.engine.base import ChatMessages


def item_ids(items: Sequence[ScoreItem]) -> list[str]:
    """Each item's id; without one, its ordinal among the equal items of the request stands in."""
    seen: Counter[str] = Counter()
    ids = []
    for item in items:
        if item.id is not None:
            ids.append(item.id)
            continue
        content = _hash((item.group or "", *_content(item)))
        ids.append(f"#{seen[content]}")
        seen[content] += 1
    return ids


def group_of(item: ScoreItem) -> str:
    """The group an item is compared in: as given, else the hash of its prompt."""
    return item.group or _prompt_hash(as_text(item.prompt))


def item_bases(request: ScoreRequest, mode: Mode, ids: Sequence[str], judge_model: str) -> list[str]:
    """Each item's identity but for the rubric. The purpose is part of it: a shadow score is no training reward."""
    step = "" if request.step is None else str(request.step)
    place = (request.lineage, request.run or "", step, mode, request.purpose, judge_model)
    return [
        _hash((*place, group_of(item), name, *_content(item))) for item, name in zip(request.items, ids, strict=True)
    ]


def item_identity(base: str, digest: str) -> str:
    """An item's identity under one rubric: its base and the rubric's digest, side by side."""
    return f"{base}.{digest}"


def trace_id(identity: str) -> str:
    """The id of the trace an item leaves: the same for every retry."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def judgement_identity(messages: ChatMessages, model: str, asked: str) -> str:
    """Everything that decides an engine's answer: conversation, model, and what is asked and how it is sampled."""
    turns = (part for message in messages for part in (message["role"], message["content"]))
    return _hash((model, asked, *turns))


@lru_cache(maxsize=64)
def _prompt_hash(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _content(item: ScoreItem) -> tuple[str, ...]:
    """What an item says, each part preceded by what it is, so that no two items read alike."""
    return (
        *_parts(item.prompt),
        *_parts(item.completion),
        *(() if item.reference is None else ("reference", item.reference)),
        *(() if item.scope is None else ("scope", item.scope)),
    )


def _parts(content: str | Conversation) -> tuple[str, ...]:
    if isinstance(content, str):
        return ("text", content)
    turns = (part for message in content for part in (message.role, message.content))
    return (f"{len(content)} turns", *turns)


def _hash(parts: Iterable[str]) -> str:
    """SHA-256 of the parts, each led by its length: no two lists of parts make one text."""
    framed = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.sha256(framed.encode("utf-8", "surrogatepass")).hexdigest()
