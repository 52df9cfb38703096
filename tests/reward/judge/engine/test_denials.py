"""A judge that refuses everything is out of service, and says why; a refused item is that item's error."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from regrade import BlockingRewardClient
from regrade.cli.doctor import examine
from regrade.contracts import ErrorCode
from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamDenied, UpstreamError, UpstreamRefused
from services.reward.judge.engine.base import EngineAnswer
from services.reward.judge.engine.discovery import open_engine
from tests.conftest import StartReward
from tests.support.builders import TASK, item
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text
from tests.support.waiting import wait_until

KEY = "sk-hush-0123456789"
QUESTION = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "How good?"}]
CHOICES = tuple("012345")


def _body(*numbers: int) -> dict[str, object]:
    return {"task": TASK, "items": [item(n) for n in numbers]}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "the judge refuses the key"),
        (402, "the judge has no credit"),
        (403, "the judge refuses every request"),
        (404, "the judge knows no such route or model"),
        (405, "the judge does not have this route"),
        (400, "the judge refuses every request"),
        (422, "the judge refuses every request"),
    ],
)
async def test_a_judge_that_refuses_everything_is_an_outage(
    start_reward: StartReward, fake_engine: FakeEngine, status: int, reason: str
) -> None:
    fake_engine.script = lambda _: Reply({"error": {"message": f"no, not with {KEY}"}}, status=status)
    service = start_reward(bootstrap_tasks=[TASK], judge_key=KEY)
    async with httpx.AsyncClient(base_url=service.url) as http:
        for numbers in ((1, 2, 3), (4,)):
            answer = await http.post("/score", json=_body(*numbers))
            assert (answer.status_code, answer.json()["error"]) == (503, ErrorCode.JUDGE_UNAVAILABLE)
            assert int(answer.headers["Retry-After"]) > 0
            assert reason in answer.json()["detail"]
            assert f"HTTP {status} at {fake_engine.url}/v1/chat/completions" in answer.json()["detail"]
            assert "no, not with ***" in answer.json()["detail"]
        assert (await http.get("/readyz")).status_code == 503
        fake_engine.script = by_text
        await _until_served(http)
    await asyncio.to_thread(wait_until, lambda: httpx.get(f"{service.url}/readyz").status_code == 200, "readiness")


async def _until_served(http: httpx.AsyncClient) -> None:
    statuses: list[int] = []
    while 200 not in statuses:
        statuses.append((await http.post("/score", json=_body(9))).status_code)
        assert len(statuses) < 1_000


def test_a_wrong_key_at_the_start_is_named(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    """The list of models is refused, too; a server that only has no list is tried."""
    fake_engine.models_status = 401
    service = start_reward(bootstrap_tasks=[TASK], judge_key=KEY)
    answer = httpx.post(f"{service.url}/score", json=_body(1))
    assert answer.status_code == 503
    assert "the judge refuses the key: HTTP 401" in answer.json()["detail"]
    assert fake_engine.calls == []


def test_doctor_says_why_the_judge_gives_no_score(
    start_reward: StartReward, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_engine.script = lambda _: Reply({"error": {"message": "no money"}}, status=402)
    service = start_reward(bootstrap_tasks=[TASK])
    httpx.post(f"{service.url}/score", json=_body(1))
    assert not examine(TASK, 2, 60.0, service.url, service.url, "")
    assert "the judge has no credit for this key: HTTP 402" in capsys.readouterr().out.replace("\n", " ")


def test_what_is_refused_for_its_content_is_that_items_error(
    start_reward: StartReward, fake_engine: FakeEngine
) -> None:
    for status in (400, 403, 413, 422):
        fake_engine.forget()

        def too_long(messages: Messages, status: int = status) -> Reply:
            long = "number 7" in messages[-1]["content"]
            return (
                Reply({"error": {"message": "longer than the context"}}, status=status) if long else by_text(messages)
            )

        fake_engine.script = too_long
        service = start_reward(bootstrap_tasks=[TASK])
        with BlockingRewardClient(service.url) as client:
            alone = client.score(TASK, [item(7, completion="number 7 " * 30)], run=f"alone-{status}", step=1)
            mixed = client.score(
                TASK,
                [item(n, completion=f"number {n} " * 30) for n in (7, 8, 9)],
                run=f"mixed-{status}",
                step=1,
            )
        for response, codes in ((alone, ["judge_refused"]), (mixed, ["judge_refused", None, None])):
            assert [result.error and result.error.code for result in response.results] == codes
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        assert len(fake_engine.calls) <= 8, "one control question at most for each kind of request"


async def test_roles_that_the_template_refuses_are_a_fault_of_the_judge(fake_engine: FakeEngine) -> None:
    def no_system(messages: Messages) -> Reply:
        refused = any(message["role"] == "system" for message in messages)
        return Reply({"message": "System role not supported"}, status=400) if refused else by_text(messages)

    fake_engine.script = no_system
    (answer,) = await _choose(fake_engine, [QUESTION])
    assert isinstance(answer, UpstreamDenied)
    assert "System role not supported" in str(answer)


async def test_many_refusals_cost_one_control_question(fake_engine: FakeEngine) -> None:
    def refuses_long(messages: Messages) -> Reply:
        return by_text(messages) if len(messages[-1]["content"]) < 100 else Reply({}, status=400)

    fake_engine.script = refuses_long
    long = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "x" * 200}]
    answers = await _choose(fake_engine, [long] * 20)
    assert [type(answer) for answer in answers] == [UpstreamRefused] * 20
    assert len(fake_engine.calls) == 21


async def _choose(
    fake_engine: FakeEngine, conversations: Sequence[Messages]
) -> Sequence[EngineAnswer[object] | UpstreamError]:
    async with open_session(connections=32, timeout_s=60.0) as session:
        engine = await open_engine(JsonClient(session, fake_engine.url, retries=0), dialect="auto", model="")
        return await engine.choose(conversations, CHOICES)


def test_a_key_that_is_changed_at_the_engine_is_noticed_both_ways(
    start_reward: StartReward, fake_engine: FakeEngine
) -> None:
    service = start_reward(bootstrap_tasks=[TASK])
    assert httpx.post(f"{service.url}/score", json=_body(1)).status_code == 200
    fake_engine.script = lambda _: Reply({"error": "expired"}, status=401)
    assert httpx.post(f"{service.url}/score", json=_body(2)).status_code == 503
    wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 503, "readiness to say so")
    fake_engine.script = by_text
    wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, "readiness without any other request")


def test_readiness_asks_the_engine_once_a_second(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    service = start_reward(bootstrap_tasks=[TASK])
    httpx.get(f"{service.url}/readyz")
    probes = fake_engine.probes
    for _ in range(40):
        assert httpx.get(f"{service.url}/readyz").status_code == 200
    assert fake_engine.probes - probes < 20, "many answers from one examination"


def test_the_judges_pause_is_the_services(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda _: Reply({"error": "per minute"}, status=429, headers={"Retry-After": "77"})
    service = start_reward(bootstrap_tasks=[TASK], judge_retries=2)
    for _ in range(2):
        answer = httpx.post(f"{service.url}/score", json=_body(1))
        assert answer.status_code == 503
        assert 70 <= int(answer.headers["Retry-After"]) <= 78
        assert "per minute" in answer.json()["detail"]
    assert len(fake_engine.calls) == 1
