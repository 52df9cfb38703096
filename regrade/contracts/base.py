"""Shared by all contracts: base models, the grammar of names, canonical JSON and its digest."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, StringConstraints

NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"
SCOPE_PATTERN = r"^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64}){0,3}$"


def without_dot_parts(name: str) -> str:
    """`name`, which may become part of a path. Raises `ValueError` if one of its parts is `.` or `..`."""
    if {".", ".."} & set(name.split("/")):
        raise ValueError(f"a name is not . or .., as in {name!r}")
    return name


Count = Annotated[int, Strict()]
"""An integer; a text or a boolean is refused."""
Number = Annotated[float, Strict()]
YesNo = Annotated[bool, Strict()]

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN), AfterValidator(without_dot_parts)]
Scope = Annotated[str, StringConstraints(pattern=SCOPE_PATTERN), AfterValidator(without_dot_parts)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Contract(BaseModel):
    """Base of requests, rubrics and options: frozen; unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True, use_attribute_docstrings=True
    )


class TolerantModel(BaseModel):
    """Base of responses and stored records: frozen; unknown fields are ignored.

    So an older client reads a newer service, and an older service what a newer one stored.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def canonical_json(value: Any) -> bytes:
    """The one form of a JSON value: sorted keys, no white space, UTF-8. Raises `ValueError` for NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
