"""The two identities: an item's (what a retry repeats) and a judgement's (what an engine call answers). Pure."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from regrade.contracts import Mode, ScoreItem, ScoreRequest, as_text, sha256_of
from services.reward.engine.base import ChatMessages


def item_ids(items: Sequence[ScoreItem]) -> list[str]:
    """Each item's id; without one, its ordinal among the equal items of the request stands in."""
    seen: Counter[str] = Counter()
    ids = []
    for item in items:
        if item.id is not None:
            ids.append(item.id)
            continue
        content = sha256_of([item.group, as_text(item.prompt), as_text(item.completion), item.reference, item.scope])
        ids.append(f"#{seen[content]}")
        seen[content] += 1
    return ids


def group_of(item: ScoreItem) -> str:
    """The group an item is compared in: as given, else the hash of its prompt."""
    return item.group or hashlib.sha256(as_text(item.prompt).encode()).hexdigest()[:32]


def item_base(request: ScoreRequest, mode: Mode, item: ScoreItem, item_id: str, judge_model: str) -> str:
    """An item's identity but for the rubric. The purpose is part of it: a shadow score is no training reward."""
    dumped = item.model_dump(mode="json", include={"prompt", "completion", "reference", "scope"})
    place = [request.lineage, request.run, request.step, mode, request.purpose]
    return sha256_of([*place, group_of(item), item_id, dumped, judge_model])


def item_identity(base: str, digest: str) -> str:
    """An item's identity under one rubric: its base and the rubric's digest, side by side."""
    return f"{base}.{digest}"


def trace_id(identity: str) -> str:
    """The id of the trace an item leaves: the same for every retry."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def judgement_identity(messages: ChatMessages, model: str, asked: str) -> str:
    """Everything that decides an engine's answer: conversation, model, and what is asked and how it is sampled."""
    return sha256_of([list(messages), model, asked])
