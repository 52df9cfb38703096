"""Several endpoints of an upstream: load, ejection, probes, and the retry budget."""

import asyncio
import logging
from collections.abc import Iterator
from functools import partial

import pytest
from pydantic import SecretStr

from services.kit.http import client, load_balancing
from services.kit.http.addresses import Address
from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamBusy, UpstreamError, UpstreamRefused, UpstreamUnavailable
from services.kit.http.load_balancing import Endpoint, RetryBudget
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain
from tests.support.waiting import wait_until

BODY = {"messages": [{"role": "user", "content": "x"}]}
CHAT = "/v1/chat/completions"
WELL = certain(3)
BROKEN = Reply(status=503)


class CountingMetrics:
    """Records the calls."""

    def __init__(self) -> None:
        self.ejected: list[int] = []
        self.retries: list[bool] = []

    def endpoints_ejected(self, count: int) -> None:
        """A count of endpoints."""
        self.ejected.append(count)

    def retry(self, *, afforded: bool) -> None:
        """A retry."""
        self.retries.append(afforded)


def _always(reply: Reply, _: Messages) -> Reply:
    return reply


@pytest.fixture
def other_engine() -> Iterator[FakeEngine]:
    """A second scripted engine."""
    engine = FakeEngine()
    yield engine
    engine.close()


async def test_the_least_loaded_is_asked(fake_engine: FakeEngine, other_engine: FakeEngine) -> None:
    fake_engine.hold()
    other_engine.hold()
    async with open_session(connections=20, timeout_s=60.0) as session:
        json_client = JsonClient(session, f"{fake_engine.url},{other_engine.url}")
        batch = asyncio.create_task(json_client.post(CHAT, BODY, weight=8))
        await asyncio.to_thread(wait_until, lambda: bool(fake_engine.calls or other_engine.calls), "the batch")
        busy, idle = (fake_engine, other_engine) if fake_engine.calls else (other_engine, fake_engine)
        singles = [asyncio.create_task(json_client.post(CHAT, BODY)) for _ in range(8)]
        await asyncio.to_thread(idle.wait_for_calls, 8)
        assert len(busy.calls) == 1
        even = [asyncio.create_task(json_client.post(CHAT, BODY)) for _ in range(4)]
        await asyncio.to_thread(idle.wait_for_calls, 10)
        await asyncio.to_thread(busy.wait_for_calls, 3)
        fake_engine.release()
        other_engine.release()
        await asyncio.gather(batch, *singles, *even)


async def test_a_failing_call_is_tried_on_another_at_once(fake_engine: FakeEngine, other_engine: FakeEngine) -> None:
    fake_engine.script = lambda _: BROKEN
    metrics = CountingMetrics()
    async with open_session(connections=4, timeout_s=60.0) as session:
        urls = f"{fake_engine.url}, {other_engine.url}"
        json_client = JsonClient(session, urls, retries=1, backoff_s=30.0, metrics=metrics)
        for _ in range(40):
            assert (await json_client.post(CHAT, BODY))["choices"]
    assert len(fake_engine.calls) == 5, "left out after five failures in a row"
    assert len(other_engine.calls) == 40
    assert metrics.retries == [True] * 5
    assert metrics.ejected[-1] == 1


class Clock:
    """Stands in for the module `time` of the client: time passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which endpoints are ejected and probed."""
    clock = Clock()
    monkeypatch.setattr(client, "time", clock)
    return clock


async def test_one_probe_brings_it_back_on_probation(
    fake_engine: FakeEngine, other_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(load_balancing, "_FIRST_EJECTION_S", 0.3)
    fake_engine.script = lambda _: BROKEN
    metrics = CountingMetrics()
    async with open_session(connections=20, timeout_s=60.0) as session:
        json_client = JsonClient(session, f"{fake_engine.url},{other_engine.url}", metrics=metrics)
        for _ in range(40):
            await json_client.post(CHAT, BODY)
        assert fake_engine.probes == 0
        clock.now += 0.31
        fake_engine.forget()
        await asyncio.gather(*(json_client.post(CHAT, BODY) for _ in range(20)))
        assert fake_engine.probes == 1
        for _ in range(40):  # ties are broken at random, so that the endpoint may not have had a request yet
            if not fake_engine.calls:
                await json_client.post(CHAT, BODY)
        assert len(fake_engine.calls) >= 1
        assert metrics.ejected[-1] == 1, "still failing: out again at once"
        fake_engine.script = lambda _: WELL
        clock.now += 0.61
        fake_engine.forget()
        await json_client.post(CHAT, BODY)
        await asyncio.gather(*(json_client.post(CHAT, BODY) for _ in range(20)))
        assert len(fake_engine.calls) >= 5
        assert metrics.ejected[-1] == 0


async def test_with_all_out_calls_fail_at_once_until_a_probe_succeeds(
    fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(load_balancing, "_FIRST_EJECTION_S", 2.0)
    fake_engine.script = lambda _: Reply(hang=True)
    async with open_session(connections=20, timeout_s=0.5) as session:
        json_client = JsonClient(session, fake_engine.url, retries=0)
        for _ in range(5):
            with pytest.raises(UpstreamUnavailable, match="Timeout"):
                await json_client.post(CHAT, BODY)
        assert len(fake_engine.calls) == 5
        for _ in range(50):
            with pytest.raises(UpstreamUnavailable, match="are ejected"):
                await json_client.post(CHAT, BODY)
        assert len(fake_engine.calls) == 5
        fake_engine.script = lambda _: WELL
        clock.now += 2.05
        assert (await json_client.post(CHAT, BODY))["choices"]
        assert fake_engine.probes == 1


async def test_a_busy_one_is_retried_and_not_left_out(fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda _: Reply(status=429)
    async with open_session(connections=4, timeout_s=60.0) as session:
        json_client = JsonClient(session, fake_engine.url, retries=1, backoff_s=0.001)
        for _ in range(10):
            with pytest.raises(UpstreamBusy):
                await json_client.post(CHAT, BODY)
    assert len(fake_engine.calls) == 20


async def test_refusals_between_failures_show_it_is_alive(fake_engine: FakeEngine) -> None:
    async with open_session(connections=4, timeout_s=60.0) as session:
        json_client = JsonClient(session, fake_engine.url, retries=0)
        for status in [503, 503, 503, 503, 400] * 3:
            fake_engine.script = partial(_always, Reply(status=status))
            with pytest.raises((UpstreamUnavailable, UpstreamRefused), match=f"HTTP {status}"):
                await json_client.post(CHAT, BODY)


async def test_telling_what_it_serves_does_not_show_that_it_works(fake_engine: FakeEngine) -> None:
    fake_engine.script = partial(_always, BROKEN)
    async with open_session(connections=4, timeout_s=60.0) as session:
        json_client = JsonClient(session, fake_engine.url, retries=0)
        for _ in range(5):
            with pytest.raises(UpstreamUnavailable, match="HTTP 503"):
                await json_client.post(CHAT, BODY)
            if len(fake_engine.calls) < 5:
                await json_client.get("/v1/models")
        with pytest.raises(UpstreamUnavailable, match="are ejected"):
            await json_client.post(CHAT, BODY)


async def test_retries_stay_within_their_budget(fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_balancing, "_MAX_RETRIES_SAVED", 3.0)
    monkeypatch.setattr(load_balancing, "_RETRIES_A_SECOND", 0.0)
    fake_engine.script = lambda _: Reply(status=429)
    metrics = CountingMetrics()
    async with open_session(connections=4, timeout_s=60.0) as session:
        json_client = JsonClient(session, fake_engine.url, retries=2, backoff_s=0.0, metrics=metrics)
        for _ in range(30):
            with pytest.raises(UpstreamBusy):
                await json_client.post(CHAT, BODY)
    assert len(fake_engine.calls) == 30 + metrics.retries.count(True)
    assert 5 <= metrics.retries.count(True) <= 6, "three at once, and a tenth of the requests"


def test_the_budget_comes_back_with_requests_and_time() -> None:
    now = 0.0
    budget = RetryBudget(lambda: now)
    assert sum(budget.try_spend() for _ in range(200)) == 100
    for _ in range(21):
        budget.record_request()
    assert [budget.try_spend() for _ in range(3)] == [True, True, False]
    now = 5.0
    budget.record_request()
    assert sum(budget.try_spend() for _ in range(200)) == 5
    now = 1e6
    budget.record_request()
    assert sum(budget.try_spend() for _ in range(200)) == 100


def test_each_rest_is_longer_and_stragglers_do_not_prolong_it() -> None:
    endpoint = Endpoint(Address("http://a/v1", "http://a", "a", {}))
    assert [endpoint.record_failure(0.0) for _ in range(5)] == [False] * 4 + [True]
    assert not any(endpoint.record_failure(0.0) for _ in range(50))
    lengths = []
    for _ in range(10):
        lengths.append(next(tenth / 10 for tenth in range(1_000) if endpoint.ready_for_probe(tenth / 10)))
        endpoint.reinstate()
        assert endpoint.record_failure(0.0), "on probation one failure is enough"
    assert 0.5 <= lengths[0] <= 1.1
    assert all(longer > shorter for shorter, longer in zip(lengths[:4], lengths[2:6], strict=True))
    assert max(lengths) <= 60.1
    endpoint.reinstate()
    endpoint.record_success()
    assert [endpoint.record_failure(0.0) for _ in range(5)] == [False] * 4 + [True]
    assert endpoint.ready_for_probe(1.1)


async def test_credentials_are_sent_and_never_told(fake_engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    errors = []
    async with open_session(connections=4, timeout_s=60.0) as session:
        with_login = fake_engine.url.replace("://", "://me:hush-1@")
        json_client = JsonClient(session, with_login, key=SecretStr("hush-2"), retries=1, backoff_s=0.0)
        await json_client.post(CHAT, BODY)
        await JsonClient(session, fake_engine.url, key=SecretStr("hush-2")).post(CHAT, BODY)
        for reply in (Reply(status=400), Reply(b"<html>"), *[BROKEN] * 6):
            fake_engine.script = partial(_always, reply)
            with pytest.raises(UpstreamError) as error:
                await json_client.post(CHAT, BODY)
            errors.append(repr(error.value) + repr(error.value.__cause__))
        fake_engine.stop()
        with pytest.raises(UpstreamUnavailable) as away:
            await json_client.probe_all()
        errors.append(repr(away.value))
    assert [headers["Authorization"] for headers in fake_engine.headers[:2]] == ["Basic bWU6aHVzaC0x", "Bearer hush-2"]
    logged = "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)
    assert "endpoint ejected" in logged
    assert "hush" not in logged + "".join(errors)
    assert "bWU6" not in logged + "".join(errors)
