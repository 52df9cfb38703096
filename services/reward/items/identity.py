"""The two identities: an item's (what a retry repeats) and a judgement's (what an engine call answers). Pure."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from regrade.contracts import Conversation, Mode, ScoreItem, ScoreRequest, as_text
from services.kit.text.fence import utf8
from services.reward.items.text import PreparedText


def content_of(item: ScoreItem, prompt: PreparedText, completion: PreparedText) -> tuple[str, ...]:
    """What an item says, by digest: `prompt` and `completion` are its texts."""
    reference, scope = item.reference, item.scope
    return (
        _digest(item.prompt, prompt),
        _digest(item.completion, completion),
        *(() if reference is None else ("reference", reference)),
        *(() if scope is None else ("scope", scope)),
    )


def item_ids(items: Sequence[ScoreItem], contents: Sequence[tuple[str, ...]]) -> list[str]:
    """Each item's id; without one, its ordinal among the equal items of the request stands in."""
    seen: Counter[tuple[str, ...]] = Counter()
    ids = []
    for item, content in zip(items, contents, strict=True):
        if item.id is not None:
            ids.append(item.id)
            continue
        equal = (item.group or "", *content)
        ids.append(f"#{seen[equal]}")
        seen[equal] += 1
    return ids


def group_of(item: ScoreItem) -> str:
    """The group an item is compared in: as given, else the hash of its prompt."""
    return item.group or _prompt_hash(as_text(item.prompt))


def item_bases(
    request: ScoreRequest, mode: Mode, ids: Sequence[str], contents: Sequence[tuple[str, ...]], judge_model: str
) -> list[str]:
    """Each item's identity but for the rubric. The purpose is part of it: a shadow score is no training reward."""
    step = "" if request.step is None else str(request.step)
    place = _framed((request.lineage, request.run or "", step, mode, request.purpose, judge_model))
    return [
        _sha256(place + _framed((group_of(item), name, *content)))
        for item, name, content in zip(request.items, ids, contents, strict=True)
    ]


def item_identity(base: str, digest: str) -> str:
    """An item's identity under one rubric: its base and the rubric's digest, side by side."""
    return f"{base}.{digest}"


def trace_id(identity: str) -> str:
    """The id of the trace an item leaves: the same for every retry."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def judgement_identities(paths: Iterable[tuple[str, ...]], model: str, asked: str) -> list[str]:
    """Of engine calls that ask `model` the same in different conversations, each named by its path."""
    same = _framed((model, asked))
    return [_sha256(same + _framed(path)) for path in paths]


@lru_cache(maxsize=256)
def _prompt_hash(prompt: str) -> str:
    return hashlib.sha256(utf8(prompt)).hexdigest()


def _digest(content: str | Conversation, text: PreparedText) -> str:
    if isinstance(content, str):
        return text.digest.hex()
    turns = (part for message in content for part in (message.role, message.content))
    return f"{len(content)} turns {_sha256(_framed(turns))}"


def _framed(parts: Iterable[str]) -> str:
    """The parts, each led by its length: no two lists of parts make one text."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def _sha256(text: str) -> str:
    return hashlib.sha256(utf8(text)).hexdigest()
