"""A page whose name was pointed at 127.0.0.1 is refused by services without keys; what people call a service is not."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from services.kit.web.host_check import is_allowed_host
from services.meta_reward.settings import MetaRewardSettings
from services.reward.settings import RewardSettings
from tests.conftest import StartReward
from tests.support import story
from tests.support.builders import ESSAY, PROMPT, TASK
from tests.support.fake_engine import FakeEngine

BODY = {"task": TASK, "items": [{"prompt": PROMPT, "completion": ESSAY}]}
WHY = {"by": "mallory", "reason": "a page told the browser to"}
EVIL = "evil.example:8701"
REBOUND = {"Host": EVIL, "Origin": f"http://{EVIL}", "Sec-Fetch-Site": "same-origin"}
"""What a browser sends for a rebound page: to it, that page and the service are one site."""

OWN = """
127.0.0.1 127.0.0.1:8700 10.2.3.4:80 [::1] [::1]:8700 [::ffff:127.0.0.1]:8700 [2001:DB8::1]:80 127.0.0.1:
localhost LOCALHOST:8700 localhost.:1 reward reward-balancer:8700 reward-0 gpu_box
app.localhost gpu.local GPU.Local.:8700 host.docker.internal box.lan box.home.arpa x.test
reward.regrade.svc reward.regrade.svc.cluster.local:8700
mine.example MINE.example.:8700
"""
FOREIGN = """
evil.example evil.example:8700 EVIL.EXAMPLE.:8700 evil.example.. [evil.example]:8700 127.0.0.1@evil.example
127.0.0.1.evil.example localhost.evil.example local.evil.example evillocal.com 1.2.3.4.5 reward.regrade
notmine.example mine.example.evil.com sub.mine.example
[::1].evil.example [::1]evil.example:80 [::1]:80.evil.example [::1]:evil.example [::1 []
[::1%25evil.example]:80 [localhost]
::1 localhost:80:80 localhost:evil.example localhost:80.evil.example evil.example@localhost localhost/evil.example
localhost,evil.example x..local .local evil.example.:80 EVIL.EXAMPLE:443 127.0.0.1..
"""


@pytest.fixture
def reward(reward_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=reward_url, timeout=60.0) as client:
        yield client


@pytest.fixture
def meta(redis_url: str, reward_url: str, fake_engine: FakeEngine) -> Iterator[httpx.Client]:
    with story.meta_service(redis_url, reward_url, fake_engine) as client:
        yield client


def _assert_refused(answer: httpx.Response, setting: str) -> None:
    assert answer.status_code == 421, answer.text
    assert set(answer.json()) == {"error", "detail"}
    assert answer.json()["error"] == "misdirected"
    assert setting in answer.json()["detail"]


@pytest.mark.parametrize(("hosts", "own"), [(OWN, True), (FOREIGN, False)], ids=["own", "foreign"])
def test_a_name_is_ours_unless_somebody_could_own_it(hosts: str, own: bool) -> None:
    mine = frozenset({"mine.example"})
    assert [host for host in hosts.split() if is_allowed_host(host.encode(), mine) is not own] == []
    assert not is_allowed_host("evil.example\u00ff".encode("latin-1"), mine)


def test_a_rebound_page_cannot_score(reward: httpx.Client) -> None:
    for answer in (
        reward.post("/score", json=BODY, headers=REBOUND),
        reward.post("/score", content=b"x" * 9_000_000, headers=REBOUND),  # before the body's limit, too
        reward.get(f"/rubrics/{TASK}", headers=REBOUND),
        reward.get("/openapi.json", headers=REBOUND),
        reward.get("/nowhere", headers=REBOUND),
    ):
        _assert_refused(answer, "REGRADE_REWARD_ALLOWED_HOSTS")
    port = urlsplit(str(reward.base_url)).port
    for host in (f"localhost:{port}", "reward.regrade.svc.cluster.local", f"[::1]:{port}"):
        assert reward.post("/score", json=BODY, headers={"Host": host}).status_code == 200
    assert 'route="unmatched",status="421"' in reward.get("/metrics").text


def test_other_headers_do_not_name_the_host(reward: httpx.Client) -> None:
    for name in ("X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-Host"):
        assert reward.post("/score", json=BODY, headers={"Host": EVIL, name: "localhost"}).status_code == 421
        assert reward.post("/score", json=BODY, headers={"Host": "localhost", name: EVIL}).status_code == 200


def test_a_rebound_page_has_no_console_and_changes_nothing(meta: httpx.Client) -> None:
    for answer in (
        meta.get("/console", headers=REBOUND),
        meta.get(f"/console/{TASK}", headers=REBOUND),
        meta.post(f"/console/{TASK}/do/pause", data=WHY, headers=REBOUND),
        meta.post(f"/cycles/{TASK}/pause", json=WHY, headers=REBOUND),
        meta.get(f"/traces/{TASK}", headers=REBOUND),
    ):
        _assert_refused(answer, "REGRADE_META_ALLOWED_HOSTS")
    assert meta.get(f"/status/{TASK}").json()["paused"] is None
    ours = {"Host": "localhost:8701", "Origin": "http://localhost:8701", "Sec-Fetch-Site": "same-origin"}
    assert meta.get(f"/console/{TASK}", headers=ours).status_code == 200
    assert meta.post(f"/console/{TASK}/do/pause", data=WHY, headers=ours).status_code == 303
    assert meta.get(f"/status/{TASK}").json()["paused"] is not None


def test_probes_and_metrics_are_for_all(reward: httpx.Client, meta: httpx.Client) -> None:
    for service in (reward, meta):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert service.get(path, headers=REBOUND).status_code == 200


def test_a_request_without_host_is_answered(reward_url: str) -> None:
    """No browser sends one; a balancer's probe in HTTP/1.0 does."""
    address = urlsplit(reward_url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), timeout=60.0) as connection:
        connection.sendall(f"GET /rubrics/{TASK} HTTP/1.0\r\n\r\n".encode())
        assert connection.recv(64).split()[1] == b"200"


def test_names_of_ones_own_are_answered_to(start_reward: StartReward, redis_url: str, fake_engine: FakeEngine) -> None:
    settings = {"allowed_hosts": ["GPU-1.example.org"], "host": "bound.example.org", "open_to_network": True}
    url = start_reward(bootstrap_tasks=[TASK], **settings).url
    with story.meta_service(redis_url, url, fake_engine, **settings) as meta:
        for host, status in (("gpu-1.example.org:8701", 200), ("bound.example.org", 200), ("other.example.org", 421)):
            headers = {"Host": host}
            assert httpx.post(f"{url}/score", json=BODY, headers=headers).status_code == status
            assert meta.get(f"/console/{TASK}", headers=headers).status_code == status


@pytest.mark.parametrize(
    "keys", [{"api_keys": ["a-key-of-a-caller"]}, {"tenants": {"team": {"keys": ["a-key-of-a-tenant"]}}}]
)
def test_with_keys_any_name_is_answered_to(start_reward: StartReward, keys: dict[str, object]) -> None:
    key = "a-key-of-a-caller" if "api_keys" in keys else "a-key-of-a-tenant"
    url = start_reward(bootstrap_tasks=[TASK], **keys).url
    answer = httpx.post(f"{url}/score", json=BODY, headers={"Host": EVIL, "Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    assert httpx.post(f"{url}/score", json=BODY, headers={"Host": EVIL}).status_code == 401


def test_the_console_with_keys_asks_for_one_by_any_name(
    redis_url: str, reward_url: str, fake_engine: FakeEngine
) -> None:
    with story.meta_service(redis_url, reward_url, fake_engine, operator_keys=["key-of-an-operator"]) as meta:
        answer = meta.get("/console", headers=REBOUND)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/console/login")


@pytest.mark.parametrize("name", ["http://gpu-1.example.org", "gpu-1.example.org:8700", "*.example.org", ""])
def test_a_name_that_could_never_match_is_told(name: str) -> None:
    for kind in (RewardSettings, MetaRewardSettings):
        with pytest.raises(ValidationError, match="give a host name"):
            kind.model_validate({"allowed_hosts": [name]})
