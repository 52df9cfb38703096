"""The meta-reward service over HTTP, its worker running: what an operator asks and does."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from services.kit.store.keys import LineageKey
from services.meta_reward.app import create_app
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.status import StatusStore
from tests.support.builders import TASK, checks_only, item
from tests.support.fake_engine import FakeEngine, certain
from tests.support.meta import POOR, meta_script
from tests.support.servers import ServerThread
from tests.support.valkey import running_valkey
from tests.support.waiting import wait_until

ACTION = {"by": "me", "reason": "why"}


class StartMeta:
    """Starts meta-reward services in this process."""

    def __init__(self, stack: ExitStack, defaults: dict[str, Any]) -> None:
        self._stack = stack
        self._defaults = defaults

    def __call__(self, **settings: Any) -> httpx.Client:
        server = ServerThread(create_app(MetaRewardSettings.model_validate(self._defaults | settings)))
        self._stack.callback(server.stop)
        return self._stack.enter_context(httpx.Client(base_url=server.url, timeout=60.0))


@pytest.fixture
def start_meta(redis_url: str, reward_url: str, fake_engine: FakeEngine) -> Iterator[StartMeta]:
    fake_engine.script = meta_script(lambda _: certain(3))
    defaults = {
        "redis_url": redis_url,
        "reward_url": reward_url,
        "meta_judge_url": fake_engine.url,
        "tasks": [TASK],
        "poll_s": 0.05,
        "every_traces": 8,
        "gate_originals": 12,
        "samples": 2,
    }
    with ExitStack() as stack:
        yield StartMeta(stack, defaults)


def _train(reward_url: str, count: int = 8) -> None:
    items = [item(n, id=str(n), completion=f"{POOR}{' ' * n}") for n in range(count)]
    answer = httpx.post(f"{reward_url}/score", json={"task": TASK, "run": "r", "step": 1, "items": items}, timeout=60.0)
    assert answer.status_code == 200


def test_it_waits_for_a_redis_that_starts_late(start_meta: StartMeta, caplog: pytest.LogCaptureFixture) -> None:
    with running_valkey() as valkey:
        valkey.stop()
        meta = start_meta(redis_url=valkey.url)
        assert meta.get("/healthz").status_code == 200
        assert meta.get("/readyz").status_code == 503
        time.sleep(0.5)  # ten polls
        assert [r.levelname for r in caplog.records if "waiting for Redis" in r.message] == ["WARNING"]
        valkey.start_again()
        wait_until(lambda: meta.get("/readyz").status_code == 200, "Redis to answer")
        assert meta.get(f"/lineage/{TASK}").status_code == 200


def test_a_cycle_as_an_operator_sees_it(start_meta: StartMeta, reward_url: str) -> None:
    meta = start_meta()
    assert meta.get("/readyz").json() == {"redis": True}
    _train(reward_url)
    wait_until(lambda: len(meta.get(f"/cycles/{TASK}").json()) == 1, "a cycle")
    report = meta.get(f"/cycles/{TASK}").json()[0]
    assert report["activated"]
    wait_until(lambda: meta.get(f"/status/{TASK}").json()["stage"] == "idle", "the worker to be idle")
    assert meta.get(f"/status/{TASK}").json()["completed"] == 1
    lineage = meta.get(f"/lineage/{TASK}").json()
    assert [event["version"] for event in lineage if event["kind"] == "activated"] == [1, 2]
    assert any(event["gate"] and event["gate"]["passed"] for event in lineage)

    diff = meta.get(f"/rubrics/{TASK}/diff", params={"before": "1", "after": report["activated"]}).json()
    assert "min_words" in diff["added"]
    assert diff["before"]["version"] == 1

    back = meta.post(f"/rubrics/{TASK}/rollback", json=ACTION).json()
    assert back["version"] == 1
    first = meta.post(f"/rubrics/{TASK}/rollback", json=ACTION)
    assert (first.status_code, first.json()["error"]) == (409, "first_version")
    forward = meta.post(f"/rubrics/{TASK}/activate", json=ACTION | {"digest": report["activated"]}).json()
    assert forward == {"digest": report["activated"], "version": 2}
    last = meta.get(f"/lineage/{TASK}").json()[-1]
    assert last["authority"] == {"kind": "override", "by": "me", "reason": "why", "bootstrap": False, "cycle": None}
    text = meta.get("/metrics").text
    assert 'regrade_activations_total{task="essay_writing"} 1.0' in text


@pytest.mark.parametrize(("request_traces", "every_traces", "needed"), [(8, 1_000, 8), (32, 12, 12), (2, 1_000, 2)])
def test_a_cycle_on_request(
    start_meta: StartMeta, reward_url: str, request_traces: int, every_traces: int, needed: int
) -> None:
    """It needs `request_traces`, or `every_traces` where those start a cycle by themselves; below, it is refused."""
    meta = start_meta(every_traces=every_traces, request_traces=request_traces)
    _train(reward_url, needed - 1)
    few = meta.post(f"/cycles/{TASK}", json=ACTION)
    assert (few.status_code, few.json()["error"]) == (409, "too_few_traces")
    assert f"{needed - 1} training traces wait" in few.json()["detail"]
    assert f"needs {needed} (REGRADE_META_REQUEST_TRACES)" in few.json()["detail"]
    assert not meta.get(f"/status/{TASK}").json()["requested"]
    meta.post(f"/cycles/{TASK}/pause", json=ACTION)
    _train(reward_url, needed)
    requested = meta.post(f"/cycles/{TASK}", json=ACTION)
    assert (requested.status_code, requested.json()["lag"], requested.json()["requested"]) == (202, needed, True)
    wait_until(lambda: len(meta.get(f"/cycles/{TASK}").json()) == 1, "a cycle")
    report = meta.get(f"/cycles/{TASK}").json()[0]
    assert (report["trigger"], report["number"]) == ("requested by me: why", 1)
    assert not meta.get(f"/status/{TASK}").json()["requested"]


def test_evaluation_is_no_evidence_for_a_request(start_meta: StartMeta, reward_url: str) -> None:
    meta = start_meta(every_traces=1_000, request_traces=2)
    body = {"task": TASK, "purpose": "eval", "items": [item(n, id=str(n)) for n in range(4)]}
    assert httpx.post(f"{reward_url}/score", json=body, timeout=60.0).status_code == 200
    refused = meta.post(f"/cycles/{TASK}", json=ACTION)
    assert (refused.status_code, refused.json()["error"]) == (409, "too_few_traces")
    assert refused.json()["detail"].startswith("0 training traces")


async def test_a_request_whose_traces_went_to_another_cycle_is_withdrawn(start_meta: StartMeta, redis: Redis) -> None:
    """It was made while that cycle ran; what is left is less than a request needs."""
    meta = start_meta(every_traces=1_000)
    await StatusStore(redis).request(LineageKey(TASK, "main"), "me", "why")
    wait_until(lambda: not meta.get(f"/status/{TASK}").json()["requested"], "the request to be withdrawn")
    assert meta.get(f"/cycles/{TASK}").json() == []


def test_cycles_are_numbered(start_meta: StartMeta, reward_url: str) -> None:
    meta = start_meta(every_traces=1_000, request_traces=1)
    for number in range(1, 4):
        _train(reward_url, 2 * number)
        meta.post(f"/cycles/{TASK}", json=ACTION).raise_for_status()
        wait_until(lambda number=number: len(meta.get(f"/cycles/{TASK}").json()) == number, "a cycle")  # type: ignore[misc]
    reports = meta.get(f"/cycles/{TASK}").json()
    assert [report["number"] for report in reports] == [1, 2, 3]
    page = meta.get(f"/cycles/{TASK}", params={"limit": 1, "skip": 1}).json()
    assert page == [reports[1]]
    for name in ("2", reports[1]["cycle"]):
        assert meta.get(f"/cycles/{TASK}/{name}").json() == reports[1]
    unknown = meta.get(f"/cycles/{TASK}/4")
    assert (unknown.status_code, unknown.json()["error"]) == (404, "unknown_cycle")
    assert "1 to 3" in unknown.json()["detail"]


def test_a_paused_lineage_runs_no_cycle_but_on_request(start_meta: StartMeta, reward_url: str) -> None:
    meta = start_meta(alarm_traces=8, request_traces=8)
    paused = meta.post(f"/cycles/{TASK}/pause", json=ACTION).json()["paused"]
    assert (paused["by"], paused["reason"]) == ("me", "why")
    _train(reward_url, 16)
    wait_until(lambda: meta.get(f"/status/{TASK}").json()["lag"] == 16, "the worker to poll")
    assert meta.get(f"/cycles/{TASK}").json() == []
    meta.post(f"/cycles/{TASK}", json=ACTION)
    wait_until(lambda: len(meta.get(f"/cycles/{TASK}").json()) == 1, "a cycle")
    assert meta.get(f"/cycles/{TASK}").json()[0]["trigger"] == "requested by me: why"
    assert meta.post(f"/cycles/{TASK}/resume", json=ACTION).json()["paused"] is None


def test_raised_alarms_are_listed(start_meta: StartMeta, reward_url: str) -> None:
    """Four groups of equal rewards raise an alarm that names their traces."""
    meta = start_meta(every_traces=1_000, alarm_traces=8)
    items = [item(n // 2, id=str(n), group=f"g{n // 2}") for n in range(8)]
    answer = httpx.post(f"{reward_url}/score", json={"task": TASK, "run": "r", "step": 1, "items": items}, timeout=60.0)
    scored = {result["trace_id"] for result in answer.json()["results"]}
    wait_until(lambda: meta.get(f"/alarms/{TASK}").json() != [], "an alarm")
    alarms = {alarm["name"]: alarm for alarm in meta.get(f"/alarms/{TASK}").json()}
    assert alarms["groups_without_spread"]["figure"] == 1.0
    assert set(alarms["groups_without_spread"]["traces"]) == scored
    wait_until(lambda: len(meta.get(f"/cycles/{TASK}").json()) == 1, "the cycle it calls for")
    assert (
        meta.get(f"/cycles/{TASK}")
        .json()[0]["trigger"]
        .startswith("alarm: groups_without_spread (1.00, raised above 0.50)")
    )


def test_a_repeated_rollback_goes_back_once(start_meta: StartMeta, reward_url: str) -> None:
    meta = start_meta()
    digests = [meta.get(f"/lineage/{TASK}").json()[0]["digest"]]
    for number in (1, 2):
        put = {"rubric": checks_only(number).model_dump(mode="json"), "by": "me", "reason": "a test"}
        digests.append(httpx.put(f"{reward_url}/rubrics/{TASK}", json=put).json()["digest"])
    body = ACTION | {"expected": digests[2]}
    assert meta.post(f"/rubrics/{TASK}/rollback", json=body).json()["digest"] == digests[1]
    again = meta.post(f"/rubrics/{TASK}/rollback", json=body)
    assert (again.status_code, again.json()["error"]) == (409, "conflict")
    assert meta.get(f"/lineage/{TASK}").json()[-1]["digest"] == digests[1]


def test_a_request_for_a_task_without_a_rubric(start_meta: StartMeta) -> None:
    meta = start_meta(tasks=[TASK, "no_rubric_yet"])
    answer = meta.post("/cycles/no_rubric_yet", json=ACTION)
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown_task")


def test_errors(start_meta: StartMeta) -> None:
    meta = start_meta()
    cases = [
        (meta.post("/cycles/no_such_task", json=ACTION), 422, "not_served"),
        (meta.post(f"/cycles/{TASK}", json=ACTION, params={"lineage": "other"}), 422, "not_served"),
        (meta.post(f"/cycles/{TASK}", json=ACTION, params={"scope": "algebra"}), 422, "not_served"),
        (meta.post("/rubrics/no_such_task/rollback", json=ACTION), 404, "unknown_task"),
        (meta.post(f"/rubrics/{TASK}/rollback", json=ACTION | {"version": 9}), 404, "unknown_rubric"),
        (meta.post(f"/rubrics/{TASK}/activate", json=ACTION | {"digest": "0" * 64}), 404, "unknown_rubric"),
        (meta.post(f"/rubrics/{TASK}/rollback", json={"by": "me"}), 422, "invalid"),
        (meta.get(f"/rubrics/{TASK}/diff", params={"before": "x", "after": "1"}), 422, "invalid"),
        (
            meta.post(f"/rubrics/{TASK}/activate", json=ACTION | {"digest": "0" * 64, "expected": "1" * 64}),
            409,
            "conflict",
        ),
    ]
    for answer, status, code in cases:
        assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
        assert set(answer.json()) == {"error", "detail"}
    assert meta.get("/lineage/no_such_task").json() == []


def test_keys(start_meta: StartMeta, reward_url: str) -> None:
    meta = start_meta(api_keys=["key-of-a-caller-"], operator_keys=["key-of-an-operator"])
    _train(reward_url)
    assert meta.get(f"/status/{TASK}").status_code == 401
    assert meta.get(f"/status/{TASK}", headers={"Authorization": "Bearer key-of-a-caller-"}).status_code == 200
    for path in (f"/cycles/{TASK}", f"/rubrics/{TASK}/rollback", f"/cycles/{TASK}/pause", f"/cycles/{TASK}/resume"):
        assert meta.post(path, json=ACTION).status_code == 401
        assert meta.post(path, json=ACTION, headers={"Authorization": "Bearer key-of-a-caller-"}).status_code == 403
    assert (
        meta.post(f"/cycles/{TASK}", json=ACTION, headers={"Authorization": "Bearer key-of-an-operator"}).status_code
        == 202
    )
