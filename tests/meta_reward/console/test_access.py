"""Who gets into the console, and what its answers carry: keys, cookies, other sites' forms, headers, pages of lists."""

import time
from collections.abc import Iterator

import httpx
import pytest

from services.kit.errors import Unauthorized
from services.meta_reward.console.session import COOKIE, LIFETIME_S, issue_token, viewer_of
from services.meta_reward.console.sign_in_throttle import SignInThrottle
from services.meta_reward.settings import MetaRewardSettings
from tests.support import story
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine

KEYS = {"api_keys": ["key-of-one-reader"], "operator_keys": ["key-of-an-operator"]}
OWN = {"Sec-Fetch-Site": "same-origin"}
WHY = {"by": "dana", "reason": "a test"}


@pytest.fixture
def meta(redis_url: str, reward_url: str, fake_engine: FakeEngine) -> Iterator[httpx.Client]:
    with story.meta_service(redis_url, reward_url, fake_engine, **KEYS) as client:
        yield client


def _sign_in(meta: httpx.Client, key: str) -> httpx.Response:
    return meta.post("/console/login", data={"key": key, "next": f"/console/{TASK}"}, headers=OWN)


def test_nobody_sees_a_page_without_a_key(meta: httpx.Client) -> None:
    for path in ("", f"/{TASK}", f"/{TASK}/traces", f"/{TASK}/rubrics", f"/{TASK}/cycles", f"/{TASK}/alarms"):
        answer = meta.get(f"/console{path}")
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/console/login")
    assert meta.post(f"/console/{TASK}/do/pause", data=WHY, headers=OWN).status_code == 303
    assert meta.get(f"/console/{TASK}", headers={"Cookie": f"{COOKIE}=9999999999.{'0' * 64}"}).status_code == 303
    refused = _sign_in(meta, "no-key")
    assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)


def test_a_key_is_in_no_cookie_and_no_address(meta: httpx.Client) -> None:
    answer = _sign_in(meta, "key-of-an-operator")
    cookie = answer.headers["set-cookie"]
    assert "key-of-an-operator" not in cookie + answer.headers["location"]
    assert all(word in cookie.lower() for word in ("httponly", "samesite=strict", "path=/console"))
    page = meta.get(f"/console/{TASK}")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"


def test_a_sign_in_leads_nowhere_else(meta: httpx.Client) -> None:
    for there in ("https://evil.example/", "//evil.example/console/", "/console.evil"):
        answer = meta.post("/console/login", data={"key": "key-of-one-reader", "next": there}, headers=OWN)
        assert answer.headers["location"] == "/console"


def test_a_reader_can_change_nothing(meta: httpx.Client) -> None:
    _sign_in(meta, "key-of-one-reader")
    assert "Pause" not in meta.get(f"/console/{TASK}").text
    for action in ("cycle", "pause", "resume", "rollback", "activate"):
        assert meta.post(f"/console/{TASK}/do/{action}", data=WHY, headers=OWN).status_code == 403


def test_signing_out_ends_the_session_for_every_copy_of_its_cookie(
    meta: httpx.Client, redis_url: str, reward_url: str, fake_engine: FakeEngine
) -> None:
    _sign_in(meta, "key-of-an-operator")
    stolen = {"Cookie": f"{COOKIE}={meta.cookies[COOKIE]}"}
    with story.meta_service(redis_url, reward_url, fake_engine, **KEYS) as replica:
        assert replica.get(f"/console/{TASK}", headers=stolen).status_code == 200
        assert meta.post("/console/logout", headers=OWN).headers["location"] == "/console/login"
        meta.cookies.clear()
        for service in (meta, replica):
            assert service.get(f"/console/{TASK}", headers=stolen).status_code == 303
            assert service.post(f"/console/{TASK}/do/pause", data=WHY, headers=OWN | stolen).status_code == 303
        _sign_in(meta, "key-of-an-operator")  # a session of its own
        assert meta.get(f"/console/{TASK}").status_code == 200


def test_guessing_keys_is_slowed_down(meta: httpx.Client) -> None:
    statuses = [_sign_in(meta, f"guess-number-{n:08d}").status_code for n in range(6)]
    assert statuses[:3] == [401] * 3
    assert 429 in statuses[3:]
    refused = _sign_in(meta, "key-of-an-operator")
    assert (refused.status_code, "set-cookie" in refused.headers) == (429, False)
    assert int(refused.headers["retry-after"]) >= 1


def test_delays_grow_and_end_with_a_right_key() -> None:
    throttle = SignInThrottle()
    delays = []
    for _ in range(14):
        throttle.failed("10.0.0.1", 0.0)
        delays.append(throttle.delay_s("10.0.0.1", 0.0))
    assert delays[:6] == [0.0, 0.0, 0.0, 2.0, 4.0, 8.0]
    assert delays[-1] == max(delays) == 300.0
    assert throttle.delay_s("10.0.0.2", 0.0) == 0.0
    assert throttle.delay_s("10.0.0.1", 301.0) == 0.0
    throttle.succeeded("10.0.0.1")
    assert throttle.delay_s("10.0.0.1", 0.0) == 0.0
    for host in range(5):
        throttle.failed(f"2001:db8::{host}", 0.0)
    assert throttle.delay_s("2001:db8::99", 0.0) > 0.0, "neighbours of one /64"


FOREIGN = [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil"}]


@pytest.mark.parametrize("headers", [*FOREIGN, {"Origin": "null"}])
def test_another_sites_form_does_nothing(meta: httpx.Client, headers: dict[str, str]) -> None:
    _sign_in(meta, "key-of-an-operator")
    assert meta.post(f"/console/{TASK}/do/pause", data=WHY, headers=headers).status_code == 403
    auth = {"Authorization": "Bearer key-of-one-reader"}
    assert meta.get(f"/status/{TASK}", headers=auth).json()["paused"] is None
    assert meta.post(f"/console/{TASK}/do/pause", data=WHY, headers=OWN).status_code == 303
    assert meta.get(f"/status/{TASK}", headers=auth).json()["paused"]["by"] == "dana"


def test_a_session_ends_with_its_time_and_with_its_key() -> None:
    settings = MetaRewardSettings.model_validate(KEYS)
    now = time.time()
    token = issue_token(settings, "key-of-an-operator", now)
    assert viewer_of(settings, token, now).may_operate
    assert not viewer_of(settings, issue_token(settings, "key-of-one-reader", now), now).may_operate
    longer = token.replace(token.partition(".")[0], str(int(now) + 99 * LIFETIME_S))
    other = MetaRewardSettings.model_validate({"operator_keys": ["key-of-another-one"]})
    for service_settings, cookie, at in (
        (settings, token, now + LIFETIME_S + 1),
        (settings, longer, now),
        (other, token, now),
    ):
        with pytest.raises(Unauthorized):
            viewer_of(service_settings, cookie, at)


def test_lists_come_in_pages(redis_url: str, reward_url: str, fake_engine: FakeEngine) -> None:
    with story.meta_service(redis_url, reward_url, fake_engine) as meta:
        story.score_step(reward_url, 1)
        hostile = story.score_hostile(reward_url)
        trace_ids: list[str] = []
        before: str | None = None
        while True:
            page = meta.get(f"/traces/{TASK}", params={"limit": 4} | ({"before": before} if before else {})).json()
            trace_ids += [trace["trace_id"] for trace in page["traces"]]
            before = page["older"]
            if before is None:
                break
        assert len(trace_ids) == len(set(trace_ids)) == 9
        flagged = meta.get(f"/traces/{TASK}", params={"flag": "instruction"}).json()["traces"]
        assert [trace["trace_id"] for trace in flagged] == [hostile]
        matching = meta.get(f"/traces/{TASK}", params={"text": "HIGHEST score"}).json()["traces"]
        assert [trace["trace_id"] for trace in matching] == [hostile]
        assert hostile[:8] in meta.get(f"/console/{TASK}/traces", params={"text": "ignore the rubric"}).text
        assert meta.get(f"/traces/{TASK}", params={"text": "no completion says this"}).json()["traces"] == []
        assert meta.get(f"/traces/{TASK}/{hostile}").json()["run"] == "hostile"
        assert meta.get(f"/traces/{TASK}/{'0' * 32}").json()["error"] == "unknown_trace"
        assert meta.get(f"/traces/{TASK}", params={"lowest": 0.9, "highest": 0.1}).status_code == 422
        story.run_cycle(meta)
        events = meta.get(f"/lineage/{TASK}").json()
        newest = meta.get(f"/lineage/{TASK}", params={"limit": 1}).json()
        assert newest == events[-1:]
        assert meta.get(f"/lineage/{TASK}", params={"before": newest[0]["id"]}).json() == events[:-1]
        assert meta.get(f"/cycles/{TASK}", params={"skip": 1}).json() == []
        report = meta.get(f"/cycles/{TASK}").json()[0]
        assert meta.get(f"/cycles/{TASK}/{report['cycle']}").json() == report
        assert meta.get(f"/cycles/{TASK}/none").json()["error"] == "unknown_cycle"
