"""Patterns and schemas: cheap ones run in the service's process, all others in a worker that can be ended."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import pytest
from pydantic import TypeAdapter

from regrade.contracts.checks import Check
from services.kit.checks import patterns
from services.kit.checks.base import CheckError, CheckInput
from services.kit.checks.registry import evaluate_check, validate_check
from services.kit.checks.workers import CheckWorkers, WorkerShare

R = TypeVar("R")
LARGE = r"(?:a?){900}a{900}"
"""A program of 2,700 steps: on 60,000 characters it takes 2 s."""


class CountingShare(WorkerShare):
    """Counts the calls of workers."""

    calls = 0

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        self.calls += 1
        return await super().run(function, *args)


@pytest.fixture(scope="module")
def workers() -> Iterator[CheckWorkers]:
    with closing(CheckWorkers(workers=1, timeout_s=60.0, preload=())) as opened:
        yield opened


def _parsed(**parameters: Any) -> Check:
    return TypeAdapter[Check](Check).validate_python(parameters)


async def _value(share: WorkerShare, check: Check, completion: str) -> float:
    return await evaluate_check(check, CheckInput("", completion, None), share)


async def test_a_cheap_pattern_costs_no_call(workers: CheckWorkers) -> None:
    share = CountingShare(workers)
    check = _parsed(check="matches", pattern=r"(?i)verdict:\s*(right|wrong)\W*$")
    values = [await _value(share, check, "so it is. " * 100 + end) for end in ("Verdict: right.", "Who knows?")] * 64
    assert values == [1.0, 0.0] * 64
    assert share.calls == 0


@pytest.mark.parametrize(("text", "value"), [("a" * 20_000, 1.0), ("é" * 20_000, 0.0)])
async def test_a_large_program_on_a_long_text_runs_in_a_worker(workers: CheckWorkers, text: str, value: float) -> None:
    share = CountingShare(workers)
    assert await _value(share, _parsed(check="matches", pattern=LARGE), text) == value
    assert share.calls == 1


async def test_a_batch_computes_little_here(workers: CheckWorkers) -> None:
    """Many texts, each of them cheap, hold up the other requests no longer than one."""
    share = CountingShare(workers)
    check = _parsed(check="matches", pattern="x[ab]{40}y")
    for _ in range(200):
        assert await _value(share, check, "ab" * 1_000) == 0.0
    assert 0 < share.calls < 200


async def test_a_document_that_takes_too_long_is_no_zero() -> None:
    check = _parsed(check="json_schema", schema={"items": {"multipleOf": 1e-300}})
    with closing(CheckWorkers(workers=1, timeout_s=0.05, preload=("jsonschema_rs",))) as hurried:
        with pytest.raises(CheckError, match="json_schema: not decided in"):
            await _value(hurried.share(), check, json.dumps([1e300] * 8_000))
        assert await _value(hurried.share(), check, "[0.0]") == 1.0


async def test_a_schema_is_compiled_and_used_in_a_worker(workers: CheckWorkers) -> None:
    share = CountingShare(workers)
    patterns._schema.cache_clear()
    assert await _value(share, _parsed(check="json_schema", schema={"type": "array"}), "[]") == 1.0
    assert share.calls == 1
    assert patterns._schema.cache_info().currsize == 0


def test_compiled_patterns_and_schemas_take_bounded_memory() -> None:
    assert (patterns._small_pattern.cache_info().maxsize or 0) * patterns._INLINE_BYTES <= 8 << 20
    assert (patterns._pattern.cache_info().maxsize or 0) * patterns._WORKER_BYTES <= 64 << 20
    of_pattern = patterns._SCHEMA_PATTERN_BYTES + patterns._SCHEMA_AUTOMATON_BYTES
    of_schema = patterns._MAX_SCHEMA_PATTERNS * of_pattern
    assert (patterns._schema.cache_info().maxsize or 0) * of_schema <= 256 << 20


@pytest.mark.parametrize(
    "pattern", [r"\w+", r"^\s*\pL{2,8}\s", r"(?i)\b(harm|benefit)\w*", r"^[\s\S]{50,400}$", "日本"]
)
def test_ordinary_patterns_are_accepted(pattern: str) -> None:
    validate_check(_parsed(check="matches", pattern=pattern))
    validate_check(_parsed(check="json_schema", schema={"properties": {"a": {"pattern": pattern}}}))


def test_a_property_called_pattern_is_no_pattern() -> None:
    properties = {"pattern": {"type": "string"}, "patternProperties": {"type": "object"}}
    validate_check(_parsed(check="json_schema", schema={"properties": properties}))


def test_a_deep_schema_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(100):
        schema = {"not": schema}
    with pytest.raises(ValueError, match="32 deep"):
        validate_check(_parsed(check="json_schema", schema=schema))


async def test_a_stored_rubric_with_a_check_over_the_limits_is_no_zero(workers: CheckWorkers) -> None:
    for check in (
        _parsed(check="matches", pattern=r"\pL{900}"),
        _parsed(check="json_schema", schema={"pattern": r"\pL{900}"}),
        _parsed(check="json_schema", schema={"anyOf": [{"pattern": "a"}] * 17}),
    ):
        with pytest.raises(CheckError):
            await _value(workers.share(), check, "{}")
