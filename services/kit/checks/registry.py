"""Every check of the catalogue: one line registers its entry. `regrade.contracts.checks.Check` lists the parameters."""

from collections.abc import Mapping
from typing import Any

from regrade.contracts import checks as parameters
from services.kit.checks import answer, length, patterns, style
from services.kit.checks.base import CheckEntry, CheckError, CheckInput
from services.kit.checks.workers import WorkerShare

CHECKS: Mapping[type[parameters.CheckParameters], CheckEntry[Any]] = {
    parameters.MinWords: length.MIN_WORDS,
    parameters.MaxWords: length.MAX_WORDS,
    parameters.MinSentences: length.MIN_SENTENCES,
    parameters.Language: style.LANGUAGE,
    parameters.EndsProperly: style.ENDS_PROPERLY,
    parameters.NotRepetitive: style.NOT_REPETITIVE,
    parameters.OnTopic: style.ON_TOPIC,
    parameters.NoPromptCopy: style.NO_PROMPT_COPY,
    parameters.Matches: patterns.MATCHES,
    parameters.BoxedAnswer: answer.BOXED_ANSWER,
    parameters.MathEqual: answer.MATH_EQUAL,
    parameters.VerdictEqual: answer.VERDICT_EQUAL,
    parameters.JsonSchema: patterns.JSON_SCHEMA,
}
"""In the order in which the catalogue proposer names equally needed checks."""


async def evaluate_check(check: parameters.Check, texts: CheckInput, workers: WorkerShare) -> float:
    """The check's value in [0, 1] for one completion. Raises `CheckError`."""
    if check.needs_reference and texts.reference is None:
        raise CheckError(f"{check.check} needs the item's reference")
    entry = CHECKS[type(check)]
    if entry.evaluate is not None:
        return entry.evaluate(check, texts)
    assert entry.evaluate_in_worker is not None
    try:
        return await entry.evaluate_in_worker(check, texts, workers)
    except CheckError as error:
        raise CheckError(f"{check.check}: {error}", retryable=error.retryable) from error


def runs_in_worker(check: parameters.Check) -> bool:
    """Whether the check may be decided in a worker process, and so take seconds."""
    return CHECKS[type(check)].evaluate_in_worker is not None


def has_own_language(check: parameters.Check) -> bool:
    """Whether the check's parameters are a pattern or a schema, which only a library can accept or refuse."""
    return CHECKS[type(check)].validate is not None


def is_surely_valid(check: parameters.Check) -> bool:
    """Whether `validate_check` would accept the check; false where that takes a worker to decide."""
    entry = CHECKS[type(check)]
    return entry.validate is None or (entry.is_surely_valid is not None and entry.is_surely_valid(check))


def validate_check(check: parameters.Check) -> None:
    """Refuse parameters that the library behind a check does not take. Raises `ValueError`."""
    entry = CHECKS[type(check)]
    if entry.validate is not None:
        entry.validate(check)
