"""Candidates with patterns and schemas: who may bring them, and that none holds up or kills a replica."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.kit.store.rubric_store import RubricStore
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, check, llm, rubric

READER, OPERATOR = "key-of-a-caller-", "key-of-an-operator"
KEYS = {"api_keys": [READER], "operator_keys": [OPERATOR]}
PATTERN = {"check": "matches", "pattern": "trees"}
SCHEMA = {"check": "json_schema", "schema": {"type": "object"}}


@pytest.fixture
def http(start_reward: StartReward) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=start_reward(bootstrap_tasks=[TASK], **KEYS).url, timeout=60.0) as client:
        yield client


def _score(http: httpx.Client, key: str, parameters: dict[str, Any], purpose: str = "shadow") -> httpx.Response:
    candidate = rubric(llm(), check("own", parameters)).model_dump(mode="json")
    items = [{"prompt": PROMPT, "completion": ESSAY}]
    body = {"task": TASK, "purpose": purpose, "rubric": candidate, "items": items}
    return http.post("/score", json=body, headers={"Authorization": f"Bearer {key}"} if key else {})


@pytest.mark.parametrize("parameters", [PATTERN, SCHEMA])
@pytest.mark.parametrize("purpose", ["shadow", "eval"])
def test_only_an_operator_brings_patterns_and_schemas(
    http: httpx.Client, parameters: dict[str, Any], purpose: str
) -> None:
    refused = _score(http, READER, parameters, purpose)
    assert (refused.status_code, refused.json()["error"]) == (403, "candidate_needs_operator")
    assert parameters["check"] in refused.json()["detail"]
    assert _score(http, READER, {"check": "min_words", "words": 5}, purpose).status_code == 200


@pytest.mark.parametrize("parameters", [PATTERN, SCHEMA])
def test_an_operator_brings_them(http: httpx.Client, parameters: dict[str, Any]) -> None:
    result = _score(http, OPERATOR, parameters).json()["results"][0]
    value = {entry["id"]: entry["score"] for entry in result["criteria"]}["own"]
    assert value == (1.0 if parameters is PATTERN else 0.0)


async def test_what_an_operator_has_stored_anybody_may_name(http: httpx.Client, store: RubricStore) -> None:
    """As `regrade doctor` sends the active rubric along."""
    stored = rubric(llm(), check("own", PATTERN))
    assert _score(http, READER, PATTERN).status_code == 403
    await store.put(TASK, stored)
    assert _score(http, READER, PATTERN).status_code == 200


def test_without_keys_everybody_may(start_reward: StartReward) -> None:
    with httpx.Client(base_url=start_reward(bootstrap_tasks=[TASK]).url, timeout=60.0) as http:
        result = _score(http, "", PATTERN).json()["results"][0]
        assert {entry["id"]: entry["score"] for entry in result["criteria"]}["own"] == 1.0


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (
            {"check": "json_schema", "schema": {"anyOf": [{"pattern": f"a{n}"} for n in range(200)]}},
            "at most 16 patterns",
        ),
        ({"check": "json_schema", "schema": {"patternProperties": {f"a{n}": {} for n in range(17)}}}, "has 17"),
        ({"check": "json_schema", "schema": {"items": {"pattern": "a" * 257}}}, "256 characters"),
        ({"check": "json_schema", "schema": {"pattern": r"\pL{900}"}}, "not a JSON Schema"),
        ({"check": "matches", "pattern": r"\pL{900}"}, "not an RE2 pattern"),
        ({"check": "matches", "pattern": "(?:a{1000}){1000}"}, "not an RE2 pattern"),
    ],
)
def test_what_would_cost_too_much_is_refused_with_a_reason(
    http: httpx.Client, parameters: dict[str, Any], reason: str
) -> None:
    answer = _score(http, OPERATOR, parameters)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_check"), answer.text
    assert "'own'" in answer.json()["detail"]
    assert reason in answer.json()["detail"]
    put = {"rubric": rubric(check("own", parameters)).model_dump(mode="json"), "by": "me", "reason": "why"}
    again = http.put(f"/rubrics/{TASK}", json=put, headers={"Authorization": f"Bearer {OPERATOR}"})
    assert (again.status_code, again.json()["error"]) == (422, "invalid_check")
