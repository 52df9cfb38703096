"""The check catalogue: each check's value in [0, 1] for one completion, without a judge call.

Where a thing is a matter of degree the value is a ramp, so that a collapsed policy finds a slope out.
"""

import asyncio
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jsonschema_rs
import re2

from regrade.contracts import Rubric, canonical_json
from regrade.contracts import checks as c
from services.kit.text import features
from services.kit.text.label_match import last_verdict, normal
from services.kit.text.language import detect_language
from services.kit.text.math_equal import MathEqualPool, boxed

_MIN_LANGUAGE_CHARS = 20


class CheckError(Exception):
    """A check that could not be decided: no reference, out of time. The item's reward is null, not 0."""


class Subject(NamedTuple):
    """What a check looks at."""

    prompt: str
    completion: str
    reference: str | None


class CheckCatalogue:
    """Evaluates any check of the catalogue; math runs in a worker process that can be killed."""

    def __init__(self, math_pool: MathEqualPool) -> None:
        self._math_pool = math_pool

    async def value(self, check: c.Check, subject: Subject) -> float:
        """The check's value in [0, 1]. Raises `CheckError`."""
        if isinstance(check, c.NEEDS_REFERENCE) and subject.reference is None:
            raise CheckError(f"{check.check} needs the item's reference")
        if isinstance(check, c.MathEqual):
            return await self._math_equal(subject)
        return _PURE[type(check)](check, subject)

    async def _math_equal(self, subject: Subject) -> float:
        try:
            return float(await self._math_pool.equal(subject.completion, subject.reference or ""))
        except (OSError, asyncio.CancelledError) as error:
            raise CheckError("math_equal was not decided in time, or its worker died") from error


def _ramp(value: float, zero: float, one: float) -> float:
    return min(1.0, max(0.0, (value - zero) / (one - zero)))


def _min_words(check: c.MinWords, subject: Subject) -> float:
    return _ramp(len(features.words(subject.completion)), 0, check.words)


def _max_words(check: c.MaxWords, subject: Subject) -> float:
    return _ramp(len(features.words(subject.completion)), 2 * check.words, check.words)


def _min_sentences(check: c.MinSentences, subject: Subject) -> float:
    return _ramp(features.sentence_count(subject.completion), 0, check.sentences)


def _language(check: c.Language, subject: Subject) -> float:
    if len(subject.completion.strip()) < _MIN_LANGUAGE_CHARS:
        return 1.0
    return float(detect_language(subject.completion) == check.language)


def _not_repetitive(check: c.NotRepetitive, subject: Subject) -> float:
    share = features.distinct_share(features.words(subject.completion), check.ngram)
    return _ramp(share, check.min_distinct / 2, check.min_distinct)


def _no_prompt_copy(check: c.NoPromptCopy, subject: Subject) -> float:
    share = features.copied_share(features.words(subject.completion), features.words(subject.prompt))
    return _ramp(share, 1.0, check.max_copied)


def _on_topic(check: c.OnTopic, subject: Subject) -> float:
    overlap = features.topic_overlap(features.words(subject.completion), features.words(subject.prompt))
    return _ramp(overlap, 0.0, check.min_overlap)


def _matches(check: c.Matches, subject: Subject) -> float:
    return float(_compiled(check.pattern).search(subject.completion) is not None)


def _ends_properly(_: c.EndsProperly, subject: Subject) -> float:
    return float(features.ends_properly(subject.completion))


def _boxed_answer(_: c.BoxedAnswer, subject: Subject) -> float:
    return float(bool(boxed(subject.completion)))


def _verdict_equal(check: c.VerdictEqual, subject: Subject) -> float:
    found = last_verdict(subject.completion, check.verdicts)
    return float(found is not None and found == normal(subject.reference or ""))


def _json_schema(check: c.JsonSchema, subject: Subject) -> float:
    validator = _validator(canonical_json(check.schema_).decode())
    try:
        return float(validator.is_valid(json.loads(subject.completion, parse_constant=_refuse_constant)))
    except (ValueError, RecursionError):
        return 0.0


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_PURE: dict[type, Callable[[Any, Subject], float]] = {
    c.MinWords: _min_words,
    c.MaxWords: _max_words,
    c.MinSentences: _min_sentences,
    c.Language: _language,
    c.NotRepetitive: _not_repetitive,
    c.NoPromptCopy: _no_prompt_copy,
    c.OnTopic: _on_topic,
    c.Matches: _matches,
    c.EndsProperly: _ends_properly,
    c.BoxedAnswer: _boxed_answer,
    c.VerdictEqual: _verdict_equal,
    c.JsonSchema: _json_schema,
}


def needs_worker(rubric: Rubric) -> bool:
    """Whether one of its checks is decided in a worker process."""
    return any(isinstance(criterion.check, c.MathEqual) for criterion in rubric.check_criteria)


def validate_check(check: c.Check) -> None:
    """Refuse parameters the engines behind a check do not take. Raises `ValueError`."""
    if isinstance(check, c.Matches):
        _compiled(check.pattern)
    if isinstance(check, c.JsonSchema):
        _validator(canonical_json(check.schema_).decode())


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = 1 << 20
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"not an RE2 pattern: {error}") from error


@lru_cache(maxsize=512)
def _validator(schema: str) -> Any:
    try:
        return jsonschema_rs.validator_for(
            schema, pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse_retrieval
        )
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(f"not a JSON Schema: {error}") from error


def _refuse_retrieval(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; nothing is fetched")
