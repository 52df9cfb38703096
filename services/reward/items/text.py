"""Texts of a batch, encoded, hashed and neutralised once each. Pure."""

import hashlib
from typing import NamedTuple

from regrade.contracts import Flag
from services.kit.text.fence import is_plain, neutralise, utf8


class PreparedText(NamedTuple):
    """A text as the caller sent it (`raw`) and as a model may see it (`safe`), with the SHA-256 of each."""

    raw: str
    digest: bytes
    safe: str
    safe_utf8: bytes
    safe_digest: bytes
    flags: tuple[Flag, ...]
    """What `safe` lacks: control tokens, hidden characters, floods."""


def prepare_text(text: str) -> PreparedText:
    """The text, its neutralised form and their digests."""
    raw = utf8(text)
    digest = hashlib.sha256(raw).digest()
    if is_plain(raw):
        return PreparedText(text, digest, text, raw, digest, ())
    safe, flags = neutralise(text)
    safe_utf8 = utf8(safe)
    return PreparedText(text, digest, safe, safe_utf8, hashlib.sha256(safe_utf8).digest(), flags)
