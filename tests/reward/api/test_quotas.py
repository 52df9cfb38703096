"""Tenants: keys with names and budgets, held before anything is done for a request."""

import httpx
import pytest
from prometheus_client import CollectorRegistry

from services.kit.errors import Overloaded
from services.reward.api.quotas import Quotas
from services.reward.metrics import RewardMetrics
from services.reward.settings import Tenant
from tests.conftest import StartReward
from tests.support.builders import TASK, item
from tests.support.fake_engine import FakeEngine

KEYS = ["tenant-a-key-one-", "tenant-a-key-two-"]
BODY = {"task": TASK, "items": [item(0), item(1)]}


def _as(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Clock:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def quotas(clock: Clock, **budgets: float) -> Quotas:
    return Quotas({"a": Tenant.model_validate({"keys": KEYS, **budgets})}, RewardMetrics(CollectorRegistry()), clock)


def test_a_budget_refills_evenly() -> None:
    clock = Clock()
    held = quotas(clock, requests_per_minute=60)
    for _ in range(60):
        held.admit_request(KEYS[0])
    with pytest.raises(Overloaded) as refused:
        held.admit_request(KEYS[1])  # another key of the same tenant
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "quota", 1)
    clock.now += 1.1
    held.admit_request(KEYS[0])
    clock.now += 3_600.0
    for _ in range(60):  # an hour's rest saves up no more than a minute
        held.admit_request(KEYS[0])
    with pytest.raises(Overloaded):
        held.admit_request(KEYS[0])


@pytest.mark.parametrize(
    ("budgets", "size"), [({"bytes_per_minute": 1_000}, 4_000), ({"items_per_minute": 100}, 4 * 100 * 65_536)]
)
def test_a_few_large_items_use_up_a_budget_as_many_small_ones_do(budgets: dict[str, float], size: int) -> None:
    clock = Clock()
    held = quotas(clock, **budgets)
    held.charge_items(held.admit_request(KEYS[0]), 1, size)
    with pytest.raises(Overloaded, match="bytes_per_minute") as refused:
        held.admit_request(KEYS[0])
    assert refused.value.retry_after == 181
    clock.now += 181.0
    held.charge_items(held.admit_request(KEYS[0]), 1, 1)


def test_a_body_is_counted_in_bytes(start_reward: StartReward) -> None:
    tenants = {"a": {"keys": KEYS, "bytes_per_minute": 2_000}}
    url = start_reward(bootstrap_tasks=[TASK], tenants=tenants, operator_keys=["the-operators-key"]).url
    assert httpx.post(f"{url}/score", json=BODY, headers=_as(KEYS[0])).status_code == 200
    for _ in range(20):
        answer = httpx.post(f"{url}/score", json=BODY, headers=_as(KEYS[1]))
        if answer.status_code != 200:
            break
    assert (answer.status_code, answer.json()["error"]) == (429, "quota")
    assert "bytes_per_minute" in answer.json()["detail"]
    query = {"task": TASK, "hold_s": "1"}
    sample = {"prompt": "p", "response": "A text. " * 20}
    held = httpx.post(f"{url}/adapters/slime", json=sample, params=query, headers=_as(KEYS[0]), timeout=60.0)
    assert (held.status_code, held.json()["error"]) == (429, "quota")
    assert 'regrade_tenant_bytes_total{tenant="a"}' in httpx.get(f"{url}/metrics").text


def test_a_batch_above_the_budget_is_paid_for_by_waiting() -> None:
    clock = Clock()
    held = quotas(clock, items_per_minute=100)
    held.charge_items(held.admit_request(KEYS[0]), 400, 1)
    with pytest.raises(Overloaded) as refused:
        held.admit_request(KEYS[0])
    assert refused.value.retry_after == 181
    clock.now += 181
    held.charge_items(held.admit_request(KEYS[0]), 1, 1)


def test_requests_that_came_together_do_not_share_what_is_left() -> None:
    held = quotas(Clock(), items_per_minute=10)
    first, second = held.admit_request(KEYS[0]), held.admit_request(KEYS[0])
    held.charge_items(first, 10, 1)
    with pytest.raises(Overloaded):
        held.charge_items(second, 10, 1)


def test_keys_of_no_tenant_have_no_budget() -> None:
    held = quotas(Clock(), requests_per_minute=1)
    for _ in range(3):
        held.charge_items(held.admit_request("an api key"), 1_000, 1)


def test_a_tenant_is_held_to_its_budget_and_the_others_are_not(
    start_reward: StartReward, fake_engine: FakeEngine
) -> None:
    tenants = {
        "small": {"keys": ["key-of-the-small-one"], "items_per_minute": 1},
        "large": {"keys": ["key-of-the-large-one"]},
    }
    url = start_reward(
        bootstrap_tasks=[TASK], api_keys=["key-of-a-caller-"], operator_keys=["key-of-an-operator"], tenants=tenants
    ).url
    with httpx.Client(base_url=url, timeout=60.0) as http:
        assert http.post("/score", json=BODY, headers=_as("key-of-the-small-one")).status_code == 200
        calls = len(fake_engine.calls)
        again = BODY | {"items": [item(3)]}
        refused = http.post("/score", json=again, headers=_as("key-of-the-small-one"))
        assert (refused.status_code, refused.json()["error"]) == (429, "quota")
        assert 1 <= int(refused.headers["Retry-After"]) <= 61
        assert len(fake_engine.calls) == calls
        unread = http.post("/score", content=b"no JSON at all", headers=_as("key-of-the-small-one"))
        assert unread.status_code == 429
        for key in ("key-of-the-large-one", "key-of-a-caller-", "key-of-an-operator"):
            assert http.post("/score", json=BODY, headers=_as(key)).status_code == 200
        assert http.post("/score", json=BODY, headers=_as("unknown")).status_code == 401
        assert http.post("/score", json=BODY).status_code == 401
        assert http.get(f"/rubrics/{TASK}", headers=_as("key-of-the-small-one")).status_code == 200
        put = {"rubric": http.get(f"/rubrics/{TASK}", headers=_as("key-of-a-caller-")).json(), "by": "x", "reason": "x"}
        assert http.put(f"/rubrics/{TASK}", json=put, headers=_as("key-of-the-small-one")).status_code == 403
        text = http.get("/metrics").text
    assert 'regrade_tenant_requests_total{outcome="admitted",tenant="small"} 1.0' in text
    assert 'regrade_tenant_requests_total{outcome="refused",tenant="small"} 2.0' in text
    assert 'regrade_tenant_items_total{tenant="large"} 2.0' in text


def test_a_trainers_sample_waits_for_its_tenants_budget(start_reward: StartReward) -> None:
    tenants = {"small": {"keys": ["key-of-the-small-one"], "items_per_minute": 30}}
    url = start_reward(bootstrap_tasks=[TASK], tenants=tenants).url
    sample = {"query": ["A task. Trees cool the street."], "prompts": ["A task."]}
    with httpx.Client(base_url=url, timeout=60.0, headers=_as("key-of-the-small-one")) as http:
        spent = http.post("/score", json=BODY | {"items": [item(n) for n in range(31)]})
        assert spent.status_code == 200
        refused = http.post(f"/adapters/openrlhf?task={TASK}&run=r&hold_s=1", json=sample)
        assert (refused.status_code, refused.json()["error"]) == (429, "quota")
        assert "Retry-After" in refused.headers
        waited = http.post(f"/adapters/openrlhf?task={TASK}&run=r&hold_s=20", json=sample)
        assert waited.status_code == 200
        assert http.get("/metrics").text.count('regrade_tenant_items_total{tenant="small"} 32.0') == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"tenants": {"a": {"keys": ["the-same-key-twice"]}, "b": {"keys": ["the-same-key-twice"]}}},
        {"tenants": {"a": {"keys": ["the-same-key-twice"]}}, "api_keys": ["the-same-key-twice"]},
        {"tenants": {"a": {"keys": []}}},
        {"tenants": {"a": {"keys": [""]}}},
        {"tenants": {"a": {"keys": ["a-key-long-enough"], "items_per_minute": 0}}},
        {"tenants": {"a": {"keys": ["a-key-long-enough"], "itmes_per_minute": 1}}},
    ],
)
def test_tenants_that_make_no_sense_are_told(start_reward: StartReward, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tenants") as error:
        start_reward(**settings)
    assert "the-same-key-twice" not in str(error.value)
