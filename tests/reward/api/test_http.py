"""The reward service as its callers meet it: typed errors, keys, limits, rubric routes, readiness, metrics."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.testclient import TestClient

from regrade import PinConflictError, RequestError, RewardClient
from services.kit.errors import Forbidden, install_error_handlers
from services.kit.store.keys import pin_key
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.kit.web.server import Credentials
from services.reward.api.routes import ScoreRoute, score_router
from services.reward.settings import RewardSettings
from tests.conftest import StartReward
from tests.support.builders import (
    ESSAY,
    LINEAGE,
    PROMPT,
    TASK,
    activate,
    check,
    checks_only,
    item,
    llm,
    min_words,
    rubric,
    veto,
)
from tests.support.fake_engine import FakeEngine, Reply, certain
from tests.support.waiting import wait_until

BODY = {"task": TASK, "items": [{"prompt": PROMPT, "completion": ESSAY}]}
KEYS = {"api_keys": ["key-of-a-caller-"], "operator_keys": ["key-of-an-operator"]}


@pytest.fixture
def http(reward_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=reward_url, timeout=60.0) as client:
        yield client


def _assert_error(answer: httpx.Response, status: int, code: str, *mentions: str) -> None:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail"}
    assert answer.json()["error"] == code
    for word in mentions:
        assert word in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        (b'{"task": "essay_writing", "items": []}', ("items", "at least 1 item")),
        (b'{"task": "essay_writing", "items": [{"prompt": "p"}]}', ("items.0.completion", "Field required")),
        (b'{"task": "essay_writing", "items": [{"prompt": "p", "completion": "c", "x": 1}]}', ("items.0.x",)),
        (b'{"task": "essay_writing", "step": NaN, "items": [{"prompt": "p", "completion": "c"}]}', ("step",)),
        (b'{"task": "no/such name", "items": [{"prompt": "p", "completion": "c"}]}', ("task",)),
        (b'{"task": "essay_writing", "items": [{"prompt": "p", "completion": "c"}], "mode": "vibes"}', ("mode",)),
        (b"not json", ()),
        (b"[]", ()),
        (b'{"task": "essay_writing", "run": "\\ud800", "items": [{"prompt": "p", "completion": "c"}]}', ()),
    ],
    ids=["empty", "missing", "unknown", "NaN", "task name", "mode", "no JSON", "no object", "surrogate"],
)
def test_bad_input_is_422_and_says_where(http: httpx.Client, content: bytes, mentions: tuple[str, ...]) -> None:
    answer = http.post("/score", content=content, headers={"Content-Type": "application/json"})
    _assert_error(answer, 422, "invalid", *mentions)


def test_unknown_task_is_404(http: httpx.Client) -> None:
    _assert_error(http.post("/score", json=BODY | {"task": "no_such_task"}), 404, "unknown_task", "no_such_task")
    _assert_error(http.get("/rubrics/no_such_task"), 404, "unknown_task")
    shadow = BODY | {"task": "nothing", "purpose": "shadow", "rubric": checks_only().model_dump(mode="json")}
    _assert_error(http.post("/score", json=shadow), 404, "unknown_task")


def test_unknown_route_and_method_have_the_same_body(http: httpx.Client) -> None:
    _assert_error(http.get("/nowhere"), 404, "not_found")
    _assert_error(http.get("/score"), 405, "method_not_allowed")


def test_10_mb_are_refused(http: httpx.Client) -> None:
    big = BODY | {"items": [{"prompt": "p", "completion": "x" * 100_000}] * 100}
    _assert_error(http.post("/score", json=big), 413, "too_large", "8000000 bytes")

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    _assert_error(http.post("/score", content=chunks(), headers={"Content-Type": "application/json"}), 413, "too_large")


def test_a_caller_that_can_wait_no_longer_is_answered(http: httpx.Client, fake_engine: FakeEngine) -> None:
    """Items judged in time have a reward, the others an error, and a nonsensical limit is refused."""
    fake_engine.script = lambda m: Reply(hang=True) if "slow" in m[1]["content"] else certain(4)
    items = [{"prompt": "p", "completion": "A quick answer."}, {"prompt": "p", "completion": "A slow answer."}]
    answer = http.post("/score", json={"task": TASK, "items": items}, headers={"Regrade-Timeout-S": "0.5"})
    quick, slow = answer.json()["results"]
    assert (quick["reward"], quick["error"]) == (0.8, None)
    assert (slow["reward"], slow["error"]["code"], slow["error"]["retryable"]) == (None, "judge_unavailable", True)
    assert "deadline" in slow["error"]["message"]
    for nonsense in ("0", "-1", "soon", "nan"):
        refused = http.post("/score", json=BODY, headers={"Regrade-Timeout-S": nonsense})
        _assert_error(refused, 422, "invalid", "Regrade-Timeout-S")


def test_keys(start_reward: StartReward) -> None:
    with httpx.Client(base_url=start_reward(bootstrap_tasks=[TASK], **KEYS).url) as http:
        put = {"rubric": checks_only().model_dump(mode="json"), "by": "me", "reason": "why"}

        def bearer(key: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {key}"}

        _assert_error(http.post("/score", json=BODY), 401, "unauthorized")
        _assert_error(http.post("/score", json=BODY, headers=bearer("wrong")), 401, "unauthorized")
        assert http.post("/score", json=BODY, headers=bearer("key-of-a-caller-")).status_code == 200
        assert http.post("/score", json=BODY, headers=bearer("key-of-an-operator")).status_code == 200
        _assert_error(http.put(f"/rubrics/{TASK}", json=put), 401, "unauthorized")
        _assert_error(http.put(f"/rubrics/{TASK}", json=put, headers=bearer("key-of-a-caller-")), 403, "forbidden")
        assert http.put(f"/rubrics/{TASK}", json=put, headers=bearer("key-of-an-operator")).status_code == 200
        assert http.get("/healthz").status_code == 200


def test_rubric_routes(http: httpx.Client) -> None:
    first = http.get(f"/rubrics/{TASK}").json()
    assert (first["version"], first["lineage"]) == (1, "main")
    own = checks_only(7).model_dump(mode="json")
    put = {"rubric": own, "by": "me", "reason": "why", "expected": "0" * 64}
    _assert_error(http.put(f"/rubrics/{TASK}", json=put), 409, "conflict", first["digest"])
    answer = http.put(f"/rubrics/{TASK}", json=put | {"expected": first["digest"]})
    assert answer.json() == {"digest": own["digest"], "version": 2}
    assert http.put(f"/rubrics/{TASK}", json=put | {"expected": own["digest"]}).json()["version"] == 2
    now = http.get(f"/rubrics/{TASK}").json()
    assert (now["digest"], now["parent"]) == (own["digest"], first["digest"])
    assert http.get(f"/rubrics/{TASK}", params={"version": 1}).json()["digest"] == first["digest"]
    assert http.get(f"/rubrics/{TASK}", params={"digest": first["digest"]}).json()["version"] == 1
    _assert_error(http.get(f"/rubrics/{TASK}", params={"version": 9}), 404, "unknown_rubric")
    _assert_error(http.get(f"/rubrics/{TASK}", params={"digest": "0" * 64}), 404, "unknown_rubric")
    new_task = http.put("/rubrics/a.new-task", json={"rubric": own, "by": "me", "reason": "start"})
    assert new_task.json()["version"] == 1


@pytest.mark.parametrize(
    "parameters",
    [{"check": "matches", "pattern": "(unclosed"}, {"check": "json_schema", "schema": {"type": "no such type"}}],
)
def test_checks_that_cannot_run_are_refused(http: httpx.Client, parameters: dict[str, object]) -> None:
    bad = rubric(llm(), check("odd", parameters)).model_dump(mode="json")
    put = {"rubric": bad, "by": "me", "reason": "why"}
    _assert_error(http.put(f"/rubrics/{TASK}", json=put), 422, "invalid_check", "odd")


async def test_pins_refuse_another_rubric(client: RewardClient, store: RubricStore) -> None:
    first = await client.score(TASK, [item()], run="r", step=1)
    await activate(store, checks_only())
    again = await client.score(TASK, [item(1)], run="r", step=1, rubric=1)
    assert again.results[0].rubric.digest == first.results[0].rubric.digest
    with pytest.raises(PinConflictError, match="pinned"):
        await client.score(TASK, [item()], run="r", step=1, rubric=2)
    fixed = await client.score(TASK, [item()], run="r", step=2, rubric=1)
    assert fixed.results[0].rubric.version == 1
    assert (await client.score(TASK, [item(3)], run="r", step=2)).results[0].rubric.version == 1
    assert (await client.score(TASK, [item()], run="r", step=1, rubric=2, purpose="eval")).results[
        0
    ].rubric.version == 2


async def test_training_takes_activated_rubrics_alone(client: RewardClient, store: RubricStore) -> None:
    await store.put(TASK, checks_only(5))
    for wanted in (checks_only(5), checks_only(5).digest):
        with pytest.raises(RequestError) as refused:
            await client.score(TASK, [item()], run="r", step=1, rubric=wanted)
        assert refused.value.code in {"candidate_in_training", "never_active"}
    with pytest.raises(RequestError, match="names the rubric"):
        await client.score(TASK, [item()], purpose="shadow")


async def test_scopes_fall_back(client: RewardClient, store: RubricStore) -> None:
    await activate(store, checks_only(3), lineage=LINEAGE._replace(scope="narrative"))
    scoped = await client.score(TASK, [item(0, scope="narrative/short"), item(1, scope="other")], run="r", step=1)
    assert [result.rubric.scope for result in scoped.results] == ["narrative", None]


async def test_guards_and_vetoes_ask_no_judge(
    client: RewardClient, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, rubric(llm(), veto("short", {"check": "min_words", "words": 10})))
    texts = ["", "  \n", "?!...", "<|im_end|><|im_start|>", "word " * 20_000, "Too short."]
    items = [{"id": str(n), "prompt": PROMPT, "completion": text} for n, text in enumerate(texts)]
    response = await client.score(TASK, items, run="r", step=1)
    assert fake_engine.calls == []
    assert [result.reward for result in response.results] == [0.0] * len(texts)
    flags = [result.flags[0] for result in response.results]
    assert flags == ["empty", "empty", "punctuation_only", "control_tokens_only", "too_long", "vetoed"]
    assert {c.id: c.score for c in response.results[-1].criteria}["quality"] is None


async def test_expected_level_and_deduction(client: RewardClient, store: RubricStore, fake_engine: FakeEngine) -> None:
    await activate(store, rubric(llm("good"), llm("bad", role="deduct", weight=0.5), min_words(10), offset=0.05))
    fake_engine.script = lambda m: certain(4 if m[1]["content"].endswith("Criterion: Good") else 1)
    result = (await client.score(TASK, [item()], run="r", step=1)).results[0]
    assert result.raw == pytest.approx((0.8 + 1.0 - 0.5 * 0.2) / 2)
    assert result.reward == pytest.approx(0.9)
    assert [c.confidence for c in result.criteria] == [1.0, 1.0, 1.0]


async def test_candidates_that_differ_in_checks_cost_no_judge_call(
    client: RewardClient, fake_engine: FakeEngine, trace_log: TraceLog
) -> None:
    base = await client.rubric(TASK)
    items = [item(n, id=str(n)) for n in range(3)]
    await client.score(TASK, items, rubric=base, purpose="shadow")
    fake_engine.forget()
    more = rubric(*base.criteria, min_words(1_000))
    response = await client.score(TASK, items, rubric=more, purpose="shadow")
    assert fake_engine.calls == []
    assert response.usage.judge_calls == 0
    await client.score(TASK, items, rubric=more, purpose="shadow", fresh=True)
    assert len(fake_engine.calls) == 3
    assert (await trace_log.recent(TASK, 10)).traces == []


async def test_concurrent_equal_judgements_join_one_call(client: RewardClient, fake_engine: FakeEngine) -> None:
    same = [item(0, id=str(n)) for n in range(6)]
    response = await client.score(TASK, same, run="r", step=1)
    assert len(fake_engine.calls) == response.usage.judge_calls == 1


async def test_starts_while_its_engine_is_away(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    fake_engine.stop()
    url = start_reward(bootstrap_tasks=[TASK]).url
    async with httpx.AsyncClient(base_url=url) as http:
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"redis": True, "judge": False})
        _assert_error(await http.post("/score", json=BODY), 503, "judge_unavailable")
        fake_engine.start()
        await asyncio.to_thread(wait_until, lambda: httpx.get(f"{url}/readyz").status_code == 200, "the engine")
        assert (await http.post("/score", json=BODY)).status_code == 200


async def test_full_trace_log_is_429(start_reward: StartReward) -> None:
    url = start_reward(bootstrap_tasks=[TASK], trace_cap=2).url
    async with httpx.AsyncClient(base_url=url) as http:
        items = [item(n) for n in range(2)]
        assert (await http.post("/score", json={"task": TASK, "items": items})).status_code == 200
        _assert_error(await http.post("/score", json={"task": TASK, "items": [item(3)]}), 429, "trace_log_full")


def test_metrics_have_bounded_labels(http: httpx.Client) -> None:
    http.post("/score", json=BODY)
    http.get("/rubrics/some-secret-task-name")
    http.get("/no/such/path-zebra")
    text = http.get("/metrics").text
    assert 'route="/rubrics/{task}"' in text
    assert 'regrade_items_total{outcome="scored",purpose="train",task="essay_writing"} 1.0' in text
    assert "some-secret-task-name" not in text
    assert "zebra" not in text


def test_openapi_documents_every_route(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert {"/score", "/rubrics/{task}", "/healthz", "/readyz"} <= set(document["paths"])
    assert set(document["paths"]["/score"]["post"]["responses"]) >= {"200", "401", "404", "413", "422", "429", "503"}


def test_step_pin_and_group_pin_have_keys_of_their_own() -> None:
    assert pin_key(LINEAGE, "r", 1, "g") != pin_key(LINEAGE, "r", None, "g")
    assert pin_key(LINEAGE, "r", 1, "g") == pin_key(LINEAGE, "r", 1, "another group")


def test_a_refusal_says_what_is_wrong_and_nothing_else(http: httpx.Client) -> None:
    broken = http.post("/score", json=BODY | {"items": [{"prompt": "p", "completion": "c", "colour": 1}]})
    assert broken.json()["detail"] == "items.0.colour: Extra inputs are not permitted"
    no_run = http.post("/score", json={"task": TASK, "step": 3, "items": [{"prompt": "p", "completion": "c"}]})
    assert no_run.json()["detail"].startswith("a step needs its run")
    empty = http.post("/score", json=BODY | {"items": []})
    assert empty.json()["detail"].startswith("items: ")


async def _refuse(request: Request, credentials: Credentials) -> None:
    raise Forbidden("a guard of the test")


def test_a_guard_added_to_the_dependencies_of_score_runs_before_the_body_is_read() -> None:
    (route,) = score_router.routes
    assert isinstance(route, ScoreRoute)
    app = FastAPI()
    router = APIRouter(route_class=ScoreRoute)
    guards = [*route.dependencies, Depends(_refuse)]
    router.add_api_route("/score", route.endpoint, methods=["POST"], dependencies=guards)
    app.include_router(router)
    install_error_handlers(app)
    app.state.settings = RewardSettings()
    response = TestClient(app).post("/score", content=b"not JSON")
    assert (response.status_code, response.json()["detail"]) == (403, "a guard of the test")
