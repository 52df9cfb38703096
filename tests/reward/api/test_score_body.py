"""`/score` beside a bad item: the content of an item is that item's error, a wrong envelope the request's."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from tests.conftest import StartReward
from tests.support.builders import ESSAY, LINEAGE, PROMPT, TASK, activate, rubric

GOOD = {"prompt": PROMPT, "completion": ESSAY}


@pytest.fixture
def http(reward_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=reward_url, timeout=60.0) as client:
        yield client


def _post(http: httpx.Client, *items: Any, **fields: Any) -> httpx.Response:
    """As ASCII JSON, so that half of a surrogate pair reaches the service."""
    body = json.dumps({"task": TASK, "run": "r", "step": 1, "items": items} | fields)
    return http.post("/score", content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("fields", "mention"),
    [
        ({"completion": None}, "completion: None"),
        ({"completion": 5}, "completion: int 5"),
        ({"completion": []}, "completion: list [] without turns"),
        ({"completion": {"text": "x"}}, "completion: dict"),
        ({"completion": ["x"]}, "turn 0 is str 'x'"),
        ({"completion": [{"role": "assistant", "content": "x"}] * 300}, "300 turns; 256 are accepted"),
        ({"completion": "half \ud83d"}, "character 5 is a lone surrogate, U+D83D"),
        ({"completion": [{"role": "assistant", "content": "half \ud83d"}]}, "lone surrogate"),
        ({"prompt": "x" * 200_001}, "prompt: a text of 200001 characters"),
        ({"prompt": "half \udc00"}, "prompt: character 5"),
        ({"prompt": None}, "prompt: None"),
        ({"reference": ["5"]}, "reference: list ['5']: give one text or number"),
        ({"reference": {"target": "5"}}, "reference: dict"),
        ({"scope": "no such scope!"}, "scope: String should match pattern"),
        ({"metadata": {"a": float("nan")}}, "metadata.a"),
        ({"metadata": {"a": "x" * 2_000}}, "metadata.a"),
        ({"group": ""}, "group"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_content_is_its_items_error(http: httpx.Client, fields: dict[str, Any], mention: str) -> None:
    answer = _post(http, GOOD | {"id": "a"}, GOOD | {"id": "b"} | fields, GOOD | {"id": "c"})
    assert answer.status_code == 200, answer.text
    first, bad, last = answer.json()["results"]
    assert [first["id"], bad["id"], last["id"]] == ["a", "b", "c"]
    assert first["reward"] is not None
    assert last["reward"] == first["reward"]
    assert (bad["reward"], bad["error"]["code"], bad["error"]["retryable"]) == (None, "invalid_item", False)
    assert mention in bad["error"]["message"]
    assert bad["rubric"] == first["rubric"]
    assert set(bad) == set(first)
    assert [entry["score"] for entry in bad["criteria"]] == [None]


@pytest.mark.parametrize("length", [60_001, 200_000, 200_001, 900_000])
def test_a_completion_of_any_length_is_flagged(http: httpx.Client, length: int) -> None:
    for completion in ("x" * length, [{"role": "assistant", "content": "x" * length}]):
        long, good = _post(http, GOOD | {"completion": completion}, GOOD).json()["results"]
        assert (long["reward"], long["flags"], long["error"]) == (0.0, ["too_long"], None)
        assert good["reward"] is not None


async def test_a_bad_scope_beside_rubrics_of_scopes_alone(start_reward: StartReward, store: RubricStore) -> None:
    await activate(store, rubric(), lineage=LINEAGE._replace(task="scoped", scope="algebra"))
    with httpx.Client(base_url=start_reward().url, timeout=60.0) as http:
        items = [GOOD | {"scope": "no scope!"}, GOOD | {"scope": "algebra"}]
        answer = _post(http, *items, task="scoped")
    assert answer.status_code == 200, answer.text
    bad, good = answer.json()["results"]
    assert (bad["error"]["code"], good["rubric"]["scope"]) == ("invalid_item", "algebra")
    assert good["reward"] is not None


def test_a_batch_of_bad_items_has_an_outcome_each(http: httpx.Client) -> None:
    answer = _post(http, *[GOOD | {"completion": None}] * 3)
    assert answer.status_code == 200
    assert [result["error"]["code"] for result in answer.json()["results"]] == ["invalid_item"] * 3
    assert _post(http, GOOD | {"completion": None}, task="no_such_task").status_code == 404


async def test_i5_a_bad_item_is_not_answered_with_the_outcome_of_its_stand_in(
    http: httpx.Client, trace_log: TraceLog
) -> None:
    assert _post(http, GOOD | {"id": "a", "completion": "-"}).json()["results"][0]["reward"] == 0.0
    assert _post(http, GOOD | {"id": "a", "completion": None}).json()["results"][0]["reward"] is None
    assert len((await trace_log.recent(TASK, 10)).traces) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"task": "no/such"}, {"step": "1"}, {"mode": "fast"}, {"run": "\ud800"}, {"surprise": 1}, {"items": 5}],
    ids=str,
)
def test_a_wrong_envelope_is_422_whatever_its_items_are(http: httpx.Client, wrong: dict[str, Any]) -> None:
    assert _post(http, GOOD | {"completion": None}, **wrong).status_code == 422


@pytest.mark.parametrize(
    "item", [{"prompt": "p"}, GOOD | {"surprise": 1}, GOOD | {"truncated": "yes"}, GOOD | {"id": 5}, 5, None], ids=str
)
def test_what_code_gives_wrong_is_422(http: httpx.Client, item: Any) -> None:
    assert _post(http, GOOD, item, GOOD | {"completion": None}).status_code == 422


def test_messages_in_the_shapes_of_other_libraries_are_read(http: httpx.Client) -> None:
    prompt = [{"role": "developer", "name": "me", "content": [{"type": "input_text", "text": PROMPT}]}]
    completion = [{"role": "assistant", "content": ESSAY, "tool_calls": None}]
    answer = _post(http, GOOD, {"prompt": prompt, "completion": completion, "reference": 5})
    plain, shaped = answer.json()["results"]
    assert shaped["reward"] == plain["reward"]
