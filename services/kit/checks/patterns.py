"""Checks whose parameters are a small language, a pattern or a schema: what one of them may cost is bounded.

Both engines take linear time, but in the product of a program's size and a text's length: seconds for a large pattern,
and a schema's patterns can take hundreds of megabytes. So programs are small, compiled ones are kept in caches whose
size is bounded in bytes, and whatever is not surely cheap runs in a worker, with its limits of time and memory.

The libraries are imported where they are used: only the reward service has them installed.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from regrade.contracts import canonical_json
from regrade.contracts.checks import JsonSchema, Matches
from services.kit.checks.base import CheckEntry, CheckError, CheckInput
from services.kit.checks.workers import WorkerShare

_INLINE_BYTES = 1 << 16
"""Of a pattern that is used in this process: it compiles within a millisecond."""
_WORKER_BYTES = 1 << 20
"""Of a pattern that is used in a worker; a larger one is refused."""
_PATTERNS_KEPT = 64
_SCHEMA_PATTERN_BYTES = 2 << 20
"""Of a compiled pattern in a schema: a class of letters takes much more than in RE2."""
_SCHEMA_AUTOMATON_BYTES = 1 << 20
_SCHEMAS_KEPT = 4
_MAX_SCHEMA_PATTERNS = 16
_MAX_PATTERN_CHARS = 256
_MAX_SCHEMA_DEPTH = 32


async def _matches(check: Matches, texts: CheckInput, workers: WorkerShare) -> float:
    text = texts.completion
    small = _small_pattern(check.pattern)
    if small is not None and workers.take_inline(small.programsize * _utf8_length(text)):
        return float(small.search(text) is not None)
    try:
        return await workers.run(_contains, check.pattern, text)
    except ValueError as error:  # a stored rubric that this release would refuse
        raise CheckError(str(error)) from error


def _contains(pattern: str, text: str) -> float:
    return float(_pattern(pattern, _WORKER_BYTES).search(text) is not None)


def _validate_matches(check: Matches) -> None:
    _pattern(check.pattern, _WORKER_BYTES)


def _is_small(check: Matches) -> bool:
    return _small_pattern(check.pattern) is not None


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


async def _json_schema(check: JsonSchema, texts: CheckInput, workers: WorkerShare) -> float:
    """In a worker for every text: a schema of 30 bytes can take half a second for a document of 50 kB."""
    try:
        _bound_schema(check.schema_)
        return await workers.run(_fits, canonical_json(check.schema_).decode(), texts.completion)
    except ValueError as error:
        raise CheckError(str(error)) from error


def _fits(schema: str, text: str) -> float:
    validator = _schema(schema)
    try:
        return float(validator.is_valid(json.loads(text, parse_constant=_refuse_constant)))
    except (ValueError, RecursionError):
        return 0.0


def _validate_json_schema(check: JsonSchema) -> None:
    _bound_schema(check.schema_)
    _schema(canonical_json(check.schema_).decode())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=_PATTERNS_KEPT)
def _small_pattern(pattern: str) -> Any:
    """The compiled pattern; None where it is too large for this process."""
    try:
        return _pattern(pattern, _INLINE_BYTES)
    except ValueError:
        return None


@lru_cache(maxsize=_PATTERNS_KEPT)
def _pattern(pattern: str, max_bytes: int) -> Any:
    import re2

    options = re2.Options()
    options.max_mem = max_bytes
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"not an RE2 pattern: {error}") from error


@lru_cache(maxsize=_SCHEMAS_KEPT)
def _schema(schema: str) -> Any:
    import jsonschema_rs

    options = jsonschema_rs.RegexOptions(size_limit=_SCHEMA_PATTERN_BYTES, dfa_size_limit=_SCHEMA_AUTOMATON_BYTES)
    try:
        return jsonschema_rs.validator_for(schema, pattern_options=options, retriever=_refuse_retrieval)
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(f"not a JSON Schema: {error}") from error


def _refuse_retrieval(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; nothing is fetched")


def _bound_schema(schema: Any) -> None:
    """Raises `ValueError` for a schema with many or long patterns, or deep nesting."""
    patterns = list(_schema_patterns(schema))
    if len(patterns) > _MAX_SCHEMA_PATTERNS or any(len(pattern) > _MAX_PATTERN_CHARS for pattern in patterns):
        raise ValueError(
            f"a JSON Schema in a check has at most {_MAX_SCHEMA_PATTERNS} patterns of {_MAX_PATTERN_CHARS} characters; "
            f"this one has {len(patterns)}, the longest of {max(map(len, patterns))}"
        )


def _schema_patterns(schema: Any) -> Iterator[str]:
    """Every value of `pattern` and key of `patternProperties`. Raises `ValueError` for a schema that is too deep."""
    waiting = [(schema, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_SCHEMA_DEPTH:
            raise ValueError(f"a JSON Schema in a check is nested at most {_MAX_SCHEMA_DEPTH} deep")
        if isinstance(value, dict):
            if isinstance(pattern := value.get("pattern"), str):
                yield pattern
            if isinstance(properties := value.get("patternProperties"), dict):
                yield from properties
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting.extend((part, depth + 1) for part in parts)


MATCHES = CheckEntry(evaluate_in_worker=_matches, validate=_validate_matches, is_surely_valid=_is_small)
JSON_SCHEMA = CheckEntry(evaluate_in_worker=_json_schema, validate=_validate_json_schema)
