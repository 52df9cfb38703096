"""Checks of a final answer or a form. None is proposed from texts: what is right comes from the task's author.

The libraries are imported where they are used: only the reward service has them installed.
"""

import json
from functools import lru_cache
from typing import Any

from regrade.contracts import canonical_json
from regrade.contracts.checks import BoxedAnswer, JsonSchema, Matches, MathEqual, VerdictEqual
from services.kit.checks.base import CheckEntry, CheckError, CheckInput
from services.kit.checks.workers import WorkerShare
from services.kit.text.final_answer import final_box
from services.kit.text.label_match import last_label, normalise
from services.kit.text.math_equal import Undecided, Unreadable, math_equal
from services.kit.text.reasoning import part_reasoning

_REGEX_MEMORY_BYTES = 1 << 20
"""Bounds the automaton that a pattern may expand to; matching stays linear in the text."""


async def equal_answer(workers: WorkerShare, completion: str, reference: str) -> float:
    """1 where the completion's final answer equals the reference, else 0. Raises `CheckError`."""
    try:
        return float(await workers.run(math_equal, completion, reference))
    except (Unreadable, Undecided) as error:
        raise CheckError(str(error)) from error


def _boxed_answer(_: BoxedAnswer, texts: CheckInput) -> float:
    return float(bool(final_box(part_reasoning(texts.completion).answer)))


async def _math_equal(_: MathEqual, texts: CheckInput, workers: WorkerShare) -> float:
    return await equal_answer(workers, texts.completion, texts.reference or "")


def _verdict_equal(check: VerdictEqual, texts: CheckInput) -> float:
    label = last_label(part_reasoning(texts.completion).answer, check.verdicts)
    return float(label is not None and label == normalise(texts.reference or ""))


def _matches(check: Matches, texts: CheckInput) -> float:
    return float(_pattern(check.pattern).search(texts.completion) is not None)


def _validate_matches(check: Matches) -> None:
    _pattern(check.pattern)


def _json_schema(check: JsonSchema, texts: CheckInput) -> float:
    try:
        document = json.loads(texts.completion, parse_constant=_refuse_constant)
        return float(_schema(canonical_json(check.schema_).decode()).is_valid(document))
    except (ValueError, RecursionError):
        return 0.0


def _validate_json_schema(check: JsonSchema) -> None:
    _schema(canonical_json(check.schema_).decode())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=512)
def _pattern(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.max_mem = _REGEX_MEMORY_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"not an RE2 pattern: {error}") from error


@lru_cache(maxsize=512)
def _schema(schema: str) -> Any:
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            schema, pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse_retrieval
        )
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(f"not a JSON Schema: {error}") from error


def _refuse_retrieval(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; nothing is fetched")


BOXED_ANSWER = CheckEntry(evaluate=_boxed_answer)
MATH_EQUAL = CheckEntry(evaluate_in_worker=_math_equal)
VERDICT_EQUAL = CheckEntry(evaluate=_verdict_equal)
MATCHES = CheckEntry(evaluate=_matches, validate=_validate_matches)
JSON_SCHEMA = CheckEntry(evaluate=_json_schema, validate=_validate_json_schema)
