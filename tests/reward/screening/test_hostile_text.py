"""Checks on text that was written to break them, and on operators' parameters that reach outside."""

import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from pydantic import TypeAdapter

from regrade.contracts.checks import Check
from services.kit.checks.base import CheckError, CheckInput
from services.kit.checks.registry import evaluate_check, validate_check
from services.kit.checks.workers import CheckWorkers
from services.kit.text.math_equal import math_equal
from tests.support.builders import ESSAY, PROMPT
from tests.support.waiting import until


def _check(parameters: dict[str, Any]) -> Check:
    parsed: Check = TypeAdapter(Check).validate_python(parameters)
    return parsed


@pytest.fixture
def pool() -> Iterator[CheckWorkers]:
    workers = CheckWorkers(timeout_s=60.0)
    yield workers
    workers.close()


async def _value(parameters: dict[str, Any], completion: str, reference: str | None = None) -> float:
    return await evaluate_check(_check(parameters), CheckInput(PROMPT, completion, reference), CheckWorkers().share())


@pytest.mark.parametrize(
    ("completion", "reference", "value"),
    [
        ("The claim is not correct.", "not correct", 1.0),
        ("The claim is not correct.", "correct", 0.0),
        ("Not correct? It is correct.", "correct", 1.0),
        ("It is INCORRECT.", "correct", 0.0),
        ("Correct; no, not  correct!", "not correct", 1.0),
        ("I cannot say.", "correct", 0.0),
        ("", "correct", 0.0),
    ],
)
async def test_a_verdict_within_a_verdict(completion: str, reference: str, value: float) -> None:
    parameters = {"check": "verdict_equal", "verdicts": ["correct", "not correct"]}
    assert await _value(parameters, completion, reference) == value


async def test_a_verdict_without_a_word_is_never_named() -> None:
    assert await _value({"check": "verdict_equal", "verdicts": ["+", "-"]}, "", "+") == 0.0


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ('{"a": 1}', 1.0),
        ('{"a": NaN}', 0.0),
        ('{"a": -Infinity}', 0.0),
        ('{"\\ud800": 1}', 0.0),
        ('["\\ud800", "\\ud800"]', 0.0),
        ("[" * 100_000, 0.0),
        ("9" * 100_000, 0.0),
        ("", 0.0),
        ("```json\n{}\n```", 0.0),
    ],
    ids=lambda v: v[:20] if isinstance(v, str) else None,
)
async def test_what_is_no_json_fits_no_schema(completion: str, value: float) -> None:
    inner = {"items": {"uniqueItems": True}, "uniqueItems": True}
    schema = {"additionalProperties": inner, "items": inner, "uniqueItems": True}
    assert await _value({"check": "json_schema", "schema": schema}, completion) == value


def test_a_schema_fetches_nothing(tmp_path: Any) -> None:
    requested_paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested_paths.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    local = tmp_path / "secret.json"
    local.write_text("{}")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for target in (f"http://127.0.0.1:{server.server_port}/x", local.as_uri()):
            with pytest.raises(ValueError, match="may not refer"):
                _check({"check": "json_schema", "schema": {"properties": {"a": [{"$ref": target}]}}})
            with pytest.raises(ValueError, match="not a JSON Schema"):
                validate_check(_check({"check": "json_schema", "schema": {"$schema": target}}))
        server.shutdown()
    assert requested_paths == []


@pytest.mark.parametrize("check", ["not_repetitive", "no_prompt_copy"])
async def test_ramps_of_shares_are_monotonic(check: str) -> None:
    honest = ESSAY.split()
    worse = PROMPT if check == "no_prompt_copy" else "trees are nice and "
    texts = [" ".join([*honest[: 40 - 4 * n], *(worse.split() * 20)[: 4 * n]]) for n in range(11)]
    values = [await _value({"check": check}, text) for text in texts]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert values[-1] < 0.5
    assert len(set(values)) > 3


async def test_a_language_needs_some_text_to_be_told() -> None:
    assert await _value({"check": "language", "language": "de"}, "ok") == 1.0


def _worker(pool: CheckWorkers) -> int:
    """The worker's process id; pebble has no public way to it."""
    assert pool._pool is not None
    return int(next(iter(pool._pool._pool_manager.worker_manager.workers)))


async def test_a_math_worker_that_dies_costs_one_item_and_no_more(pool: CheckWorkers) -> None:
    subject = CheckInput(PROMPT, r"\boxed{4}", "4")
    check = _check({"check": "math_equal"})
    assert await evaluate_check(check, subject, pool.share()) == 1.0
    os.kill(_worker(pool), signal.SIGKILL)

    async def served() -> bool:
        try:
            return await evaluate_check(check, subject, pool.share()) == 1.0
        except CheckError:
            return False

    await until(served, "a new worker")
    assert await evaluate_check(check, subject, pool.share()) == 1.0


async def test_math_takes_no_answer_for_a_wrong_one() -> None:
    pool = CheckWorkers(timeout_s=60.0)
    try:
        for completion in ("", "no answer here", r"\boxed{", "x\x00y", "{" * 5_000):
            assert not await pool.share().run(math_equal, completion, "4")
        assert await pool.share().run(math_equal, r"So it is $\frac{8}{2}$.", "4")
    finally:
        pool.close()
