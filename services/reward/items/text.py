"""What a batch needs to know of a text, found in one look: which text it is, and what of it a model may see. Pure."""

import hashlib
from typing import NamedTuple

from regrade.contracts import Flag
from services.kit.text.fence import is_plain, neutralise, utf8


class PreparedText(NamedTuple):
    """A text as it came and as it may be shown, the SHA-256 of either, and flags for what was taken out of it."""

    raw: str
    digest: bytes
    safe: str
    safe_utf8: bytes
    safe_digest: bytes
    flags: tuple[Flag, ...]


def prepare_text(text: str) -> PreparedText:
    """Everything at once: the bytes of a text are made and read one time."""
    raw = utf8(text)
    digest = hashlib.sha256(raw).digest()
    if is_plain(raw):
        return PreparedText(text, digest, text, raw, digest, ())
    safe, flags = neutralise(text)
    shown = utf8(safe)
    return PreparedText(text, digest, safe, shown, hashlib.sha256(shown).digest(), flags)
