"""The two identities: an item's (what a retry repeats) and a judgement's (what an engine call returns). Pure."""

import hashlib
from collections.abc import Iterable

from regrade.contracts import Conversation, Mode, ScoreItem, ScoreRequest
from services.kit.text.fence import utf8
from services.reward.items.text import PreparedText


def request_key(request: ScoreRequest, mode: Mode, judge_model: str) -> str:
    """What the identities of all items of a request have in common.

    The purpose is part of it, so that a shadow score is never returned as a training reward.
    """
    step = "" if request.step is None else str(request.step)
    return _framed((request.lineage, request.run or "", step, mode, request.purpose, judge_model))


def content_key(item: ScoreItem, prompt: PreparedText, completion: PreparedText) -> tuple[str, ...]:
    """An item's texts and scope; `prompt` and `completion` are its prepared texts."""
    reference, scope = item.reference, item.scope
    return (
        _content_digest(item.prompt, prompt),
        _content_digest(item.completion, completion),
        *(() if reference is None else ("reference", reference)),
        *(() if scope is None else ("scope", scope)),
    )


def item_base(request_key: str, group: str, item_id: str, content: tuple[str, ...]) -> str:
    """An item's identity without the rubric."""
    return _sha256(request_key + _framed((group, item_id, *content)))


def item_identity(base: str, digest: str) -> str:
    """An item's identity under the rubric with this digest."""
    return f"{base}.{digest}"


def trace_id(identity: str) -> str:
    """The id of an item's trace: the same for every retry."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def judgement_identities(prefix_keys: Iterable[tuple[str, ...]], model: str, call: str) -> list[str]:
    """The identities of equal calls to `model` in different conversations, one for each conversation's prefix key."""
    shared = _framed((model, call))
    return [_sha256(shared + _framed(key)) for key in prefix_keys]


def _content_digest(content: str | Conversation, text: PreparedText) -> str:
    if isinstance(content, str):
        return text.digest.hex()
    parts = (part for message in content for part in (message.role, message.content))
    return f"{len(content)} turns {_sha256(_framed(parts))}"


def _framed(parts: Iterable[str]) -> str:
    """The parts, each preceded by its length, so that different lists of parts never give the same text."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def _sha256(text: str) -> str:
    return hashlib.sha256(utf8(text)).hexdigest()
