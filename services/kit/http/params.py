"""Parameters that an operator adds to the engine's requests, or takes out of them. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

_OURS = frozenset({"messages", "model", "n", "stream", "stream_options"})


def _check(params: dict[str, Any]) -> dict[str, Any]:
    fixed = sorted(_OURS & params.keys())
    if fixed:
        raise ValueError(f"{', '.join(fixed)} cannot be set here: the service needs its own values")
    return params


RequestParams = Annotated[dict[str, Any], AfterValidator(_check)]
"""Fields merged into each request to an engine; null removes a field."""


def with_params(payload: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with `params`, without the fields that are null there."""
    return {name: value for name, value in {**payload, **params}.items() if value is not None}


def params_digest(params: Mapping[str, Any]) -> str:
    """A short hash that distinguishes parameters; empty for none."""
    text = json.dumps(params, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12] if params else ""
