"""What an operator sees: readiness, metrics, a process that starts and ends as told."""

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import SpawnReward, StartReward
from tests.support.builders import TASK, checks_only, item
from tests.support.fake_engine import FakeEngine, Reply
from tests.support.valkey import Valkey, running_valkey
from tests.support.waiting import wait_until

BODY = {"task": TASK, "items": [item()]}


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with running_valkey() as server:
        yield server


def test_i8_a_replica_outlives_its_redis(start_reward: StartReward, own_valkey: Valkey) -> None:
    """Redis away: alive, not ready, 503 on what needs it; back again: ready, without a restart."""
    url = start_reward(redis_url=own_valkey.url, bootstrap_tasks=[TASK]).url
    with httpx.Client(base_url=url, timeout=60.0) as http:
        assert http.post("/score", json=BODY).status_code == 200
        own_valkey.stop()
        assert http.get("/healthz").status_code == 200
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["redis"], ready.json()["judge"]) == (503, False, True)
        assert ready.json()["problems"]["redis"].startswith("redis_unavailable: ")
        refused = http.post("/score", json=BODY)
        assert (refused.status_code, refused.json()["error"]) == (503, "redis_unavailable")
        assert set(refused.json()) == {"error", "detail"}
        assert int(refused.headers["Retry-After"]) > 0
        own_valkey.start_again()
        wait_until(lambda: http.get("/readyz").status_code == 200, "the replica to be ready again")
        put = {"rubric": checks_only().model_dump(mode="json"), "by": "me", "reason": "another one"}
        # Redis came back empty: version 1 is the restored rubric.
        assert http.put(f"/rubrics/{TASK}", json=put).json()["version"] == 2
        assert http.post("/score", json=BODY).status_code == 200


def test_i8_a_new_replica_goes_on_where_another_stopped(start_reward: StartReward) -> None:
    first = start_reward(bootstrap_tasks=[TASK])
    answer = httpx.post(f"{first.url}/score", json=BODY).json()
    first.stop()
    second = start_reward(bootstrap_tasks=[TASK])
    again = httpx.post(f"{second.url}/score", json=BODY).json()
    assert again["results"] == [answer["results"][0] | {"cached": True}]


def test_metrics_take_no_label_from_a_caller(reward_url: str, fake_engine: FakeEngine) -> None:
    with httpx.Client(base_url=reward_url) as http:
        http.post("/score", json=BODY)
        shadow = {"purpose": "shadow", "rubric": checks_only().model_dump(mode="json")}
        for n in range(3):
            http.post("/score", json=BODY | shadow | {"task": f"made-up-{n}"})
            http.post("/score", json=BODY | {"task": f"made-up-{n}"})
            http.post("/score", json=BODY | {"run": f"made-up-{n}"})
            http.get(f"/rubrics/{TASK}", params={"lineage": f"made-up-{n}"})
            http.get(f"/made-up-{n}")
            http.request(f"MADE-UP-{n}", "/score")
            http.request("PROPFIND", f"/made-up-{n}")
        fake_engine.script = lambda _: Reply(b"made-up")
        http.post("/score", json=BODY | {"items": [item(9)]})
        text = http.get("/metrics").text
    assert not re.search("made-up", text, re.IGNORECASE)
    labels = dict(re.findall(r"(?:[{,])(\w+)=\"([^\"]*)\"", text))
    assert set(labels) <= {"task", "purpose", "outcome", "le", "kind", "lineage", "method", "route", "status"}
    assert 'regrade_judge_call_seconds_count{outcome="UpstreamMalformed"} 1.0' in text
    assert 'outcome="judge_malformed"' in text


def test_a_process_that_is_told_to_end_finishes_what_it_began(
    spawn_reward: SpawnReward, fake_engine: FakeEngine
) -> None:
    process = spawn_reward(bootstrap_tasks=[TASK])
    assert httpx.get(f"{process.url}/readyz").json() == {"redis": True, "judge": True}

    def refuses() -> bool:
        try:
            httpx.get(f"{process.url}/healthz")
        except httpx.TransportError:
            return True
        return False

    fake_engine.hold()
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(httpx.post, f"{process.url}/score", json=BODY, timeout=60.0)
        fake_engine.wait_for_calls(1)
        ended = threads.submit(process.stop)
        wait_until(refuses, "the listener to close")
        fake_engine.release()
        assert answer.result().status_code == 200
        assert ended.result() in (0, -signal.SIGTERM)


def test_a_mistyped_setting_is_told(monkeypatch: pytest.MonkeyPatch, start_reward: StartReward) -> None:
    with pytest.raises(ValueError, match="judge_ulr"):
        start_reward(judge_ulr="http://127.0.0.1:1")


def test_metrics_tell_what_a_trainer_cannot_learn_from(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    """A group of equal rewards, flags, room at the judge, and since when the rubric is active."""
    url = start_reward(bootstrap_tasks=[TASK], judge_in_flight=7).url
    same = [item(0, id=str(n), group="flat") for n in range(2)]
    apart = [item(0, group="apart"), item(0, completion="!!!", group="apart")]
    with httpx.Client(base_url=url, timeout=60.0) as http:
        answer = http.post("/score", json={"task": TASK, "items": [*same, *apart, item(0, group="alone")]}).json()
        assert [result["error"] for result in answer["results"]] == [None] * 5
        text = http.get("/metrics").text
    assert 'regrade_groups_total{spread="none",task="essay_writing"} 1.0' in text
    assert 'regrade_groups_total{spread="some",task="essay_writing"} 1.0' in text
    assert 'regrade_flags_total{flag="punctuation_only",task="essay_writing"} 1.0' in text
    assert "regrade_judge_capacity_calls 7.0" in text
    assert "regrade_judge_waiting_calls 0.0" in text
    since = re.search(r"^regrade_active_rubric_since_seconds\{.*\} (\S+)$", text, re.MULTILINE)
    assert since is not None
    assert 0 <= time.time() - float(since[1]) < 300
