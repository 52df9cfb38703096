"""Redis away: known pins go on, new ones are flagged, what was rewarded is spooled and replayed once (I2, I5)."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis as BlockingRedis

from regrade import RewardClient
from services.kit.store import keys
from services.kit.store.redis import connect
from services.kit.store.rubric_store import RubricPointer, RubricStore
from services.kit.store.trace_log import PinRequest, TraceLog
from tests.conftest import StartReward
from tests.support.builders import LINEAGE, TASK, checks_only, llm, rubric
from tests.support.fake_engine import FakeEngine, Reply, by_text
from tests.support.outage import (
    STEP,
    activate_at,
    ask,
    digests,
    error_of,
    gauge,
    numbered,
    own_valkey,
    readiness,
    recovered,
    rewards,
    score,
    settings,
    traces,
    traces_by_item,
)
from tests.support.valkey import Valkey, running_valkey
from tests.support.waiting import until, wait_until

valkey = own_valkey


@pytest.fixture
def url(start_reward: StartReward, valkey: Valkey, tmp_path: Path) -> str:
    """A reward service with a spool."""
    return start_reward(**settings(valkey, tmp_path)).url


@pytest.mark.parametrize("pinned_by", [STEP, {"run": "r"}], ids=["step", "group"])
async def test_i5_a_known_pin_goes_on_and_leaves_one_trace_an_item(
    url: str, valkey: Valkey, fake_engine: FakeEngine, pinned_by: dict[str, Any]
) -> None:
    before = score(url, numbered(0), **pinned_by)
    assert before["degraded"] is False
    valkey.stop()
    during = score(url, numbered(1, 2), **pinned_by)
    assert during["degraded"] is True
    assert digests(during) == digests(before)
    assert [result["flags"] for result in during["results"]] == [[], []]
    fake_engine.forget()
    again = score(url, numbered(1, 2), **pinned_by)
    assert rewards(again) == rewards(during)
    assert [result["cached"] for result in again["results"]] == [True, True]
    assert fake_engine.calls == []
    valkey.start_again()
    await recovered(url)
    after = score(url, numbered(0, 1, 2), **pinned_by)
    assert after["degraded"] is False
    assert rewards(after) == rewards(before) + rewards(during)
    assert fake_engine.calls == []
    assert await traces_by_item(valkey.url) == {"0": 1, "1": 1, "2": 1}


async def test_i5_a_redis_that_comes_back_empty_gets_what_was_spooled(
    start_reward: StartReward, tmp_path: Path, fake_engine: FakeEngine
) -> None:
    """Pins and their rubric, too: a retry is answered although nothing is active there."""
    with running_valkey() as forgetful:
        url = start_reward(**settings(forgetful, tmp_path)).url
        before = score(url, numbered(0), **STEP)
        forgetful.stop()
        during = score(url, numbered(1), **STEP) | score(url, numbered(1), run="r", step=2)
        forgetful.start_again()
        await recovered(url)
        fake_engine.forget()
        assert rewards(score(url, numbered(1), run="r", step=2)) == rewards(during)
        assert fake_engine.calls == []
        fresh = start_reward(redis_url=forgetful.url).url
        assert digests(score(fresh, numbered(5), **STEP)) == digests(before)
        stored = await traces(forgetful.url)
        assert sorted((trace.item_id, trace.step) for trace in stored) == [("1", 1), ("1", 2), ("5", 1)]


@pytest.mark.parametrize("pinned_by", [{"run": "r", "step": 2}, {"run": "other"}], ids=["step", "group"])
async def test_i2_a_pin_made_up_is_flagged_kept_and_put_to_redis(
    url: str, valkey: Valkey, pinned_by: dict[str, Any]
) -> None:
    score(url, numbered(0), **STEP)
    valkey.stop()
    answers = [score(url, numbered(n), **pinned_by) for n in (1, 2)]
    assert all(answer["degraded"] for answer in answers)
    assert [result["flags"] for answer in answers for result in answer["results"]] == [["unpinned"], ["unpinned"]]
    with valkey.elsewhere() as redis_url:
        await activate_at(redis_url, checks_only(3))
    valkey.start_again()
    await recovered(url)
    after = score(url, numbered(1, 3), **pinned_by)
    assert digests(after) == digests(answers[0]) == digests(answers[1]) != {checks_only(3).digest}
    assert [result["cached"] for result in after["results"]] == [True, False]
    assert digests(score(url, numbered(4), run="r", step=3)) == {checks_only(3).digest}
    assert await traces_by_item(valkey.url) == {str(n): 1 for n in range(5)}


async def test_i5_a_pin_that_another_replica_fixed_meanwhile_counts(
    url: str, valkey: Valkey, fake_engine: FakeEngine
) -> None:
    """The item keeps the outcome it was answered with, and its one trace; what is new is scored under Redis's pin."""
    async with RewardClient(url, patience_s=20.0) as client:
        await client.score(TASK, numbered(0), **STEP)
        valkey.stop()
        during = await client.score(TASK, numbered(1), run="r", step=2)
        with valkey.elsewhere() as redis_url:
            await activate_at(redis_url, checks_only(3))
            redis = connect(SecretStr(redis_url))
            await TraceLog(redis).resolve(
                TASK, [PinRequest(keys.pin_key(LINEAGE, "r", 2, "g"), LINEAGE, None, 600, ())]
            )
            await redis.aclose()
        valkey.start_again()
        await recovered(url)
        fake_engine.forget()
        known, new = (await client.score(TASK, numbered(1, 2), run="r", step=2)).results
    assert fake_engine.calls == []
    assert (known.reward, known.rubric, known.cached) == (during.results[0].reward, during.results[0].rubric, True)
    assert new.rubric.digest == checks_only(3).digest
    assert await traces_by_item(valkey.url) == {"0": 1, "1": 1, "2": 1}


async def test_i2_a_pin_made_up_for_an_item_without_a_reward_is_put_to_redis_too(
    url: str, valkey: Valkey, fake_engine: FakeEngine
) -> None:
    first = score(url, numbered(0), **STEP)
    valkey.stop()
    fake_engine.script = lambda _: Reply({}, 400)
    assert rewards(score(url, numbered(1), run="r", step=2)) == [None]
    with valkey.elsewhere() as redis_url:
        await activate_at(redis_url, checks_only(3))
    valkey.start_again()
    await recovered(url)
    fake_engine.script = by_text
    assert digests(score(url, numbered(1), run="r", step=2)) == digests(first)


async def test_i5_a_batch_that_redis_came_back_under(url: str, valkey: Valkey, fake_engine: FakeEngine) -> None:
    """Its pin was made up, another replica's counts by the time it ends: a retry finds what it was answered."""
    score(url, numbered(0), **STEP)
    valkey.stop()
    score(url, numbered(9), **STEP)
    fake_engine.forget()
    fake_engine.hold()
    batch = asyncio.create_task(asyncio.to_thread(score, url, numbered(1), run="r", step=2))
    await asyncio.to_thread(fake_engine.wait_for_calls, 1)
    with valkey.elsewhere() as redis_url:
        await activate_at(redis_url, checks_only(3))
        redis = connect(SecretStr(redis_url))
        await TraceLog(redis).resolve(TASK, [PinRequest(keys.pin_key(LINEAGE, "r", 2, "g"), LINEAGE, None, 600, ())])
        await redis.aclose()
    valkey.start_again()
    await recovered(url)
    fake_engine.release()
    during = await batch
    await recovered(url)
    again = score(url, numbered(1), run="r", step=2)
    assert (rewards(again), digests(again)) == (rewards(during), digests(during))
    assert await traces_by_item(valkey.url) == {"0": 1, "9": 1, "1": 1}


async def test_i5_concurrent_equal_items_agree(url: str, valkey: Valkey) -> None:
    score(url, numbered(0), **STEP)
    valkey.stop()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: score(url, numbered(1, 2), run="r", step=2), range(16)))
    assert len({tuple(rewards(answer)) for answer in answers}) == 1
    valkey.start_again()
    await recovered(url)
    assert await traces_by_item(valkey.url) == {"0": 1, "1": 1, "2": 1}


async def test_i5_two_replicas_that_scored_the_same_leave_one_trace(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path
) -> None:
    urls = [start_reward(**settings(valkey, tmp_path)).url for _ in range(2)]
    for n, url in enumerate(urls):
        score(url, numbered(n), **STEP)
    valkey.stop()
    for url in urls:
        score(url, numbered(2, 3), run="r", step=2)
    valkey.start_again()
    for url in urls:
        await recovered(url)
    assert await traces_by_item(valkey.url) == {str(n): 1 for n in range(4)}


async def test_i5_redis_goes_silent_while_the_judge_works(url: str, valkey: Valkey, fake_engine: FakeEngine) -> None:
    """The write is sent, never answered, and carried out late: beside the replay it leaves one trace."""
    score(url, numbered(0), **STEP)
    fake_engine.hold()
    batch = asyncio.create_task(asyncio.to_thread(score, url, numbered(1), **STEP))
    fake_engine.forget()
    await asyncio.to_thread(fake_engine.wait_for_calls, 1)
    valkey.pause()
    try:
        fake_engine.release()
        during = await batch
        assert during["degraded"] is True
    finally:
        valkey.resume()
    await recovered(url)
    assert rewards(score(url, numbered(1), **STEP)) == rewards(during)
    assert await traces_by_item(valkey.url) == {"0": 1, "1": 1}


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "silent"])
def test_only_the_first_batch_waits(url: str, valkey: Valkey, silent: bool) -> None:
    def seconds(first: int) -> float:
        durations = []
        for n in range(first, first + 15):
            started = time.perf_counter()
            score(url, numbered(n), **STEP)
            durations.append(time.perf_counter() - started)
        return min(durations)  # other load makes batches slower, and hardly all of them

    normal = seconds(0)
    (valkey.pause if silent else valkey.stop)()
    try:
        score(url, numbered(99), **STEP)
        assert seconds(100) - normal < 0.15, "a batch that asks a dead Redis waits for a time-out, or for several tries"
    finally:
        (valkey.resume if silent else valkey.start_again)()


async def test_a_redis_out_of_memory_is_away_until_it_has_room(url: str, valkey: Valkey) -> None:
    score(url, numbered(0), **STEP)
    with BlockingRedis.from_url(valkey.url) as connection:
        connection.config_set("maxmemory", "1kb")
        assert score(url, numbered(1), **STEP)["degraded"] is True
        assert gauge(url, "regrade_degraded_state") == 1.0
        connection.config_set("maxmemory", "0")
    await recovered(url)
    assert await traces_by_item(valkey.url) == {"0": 1, "1": 1}


async def test_the_last_rubric_known_is_the_newest_activated(url: str, valkey: Valkey) -> None:
    score(url, numbered(0), **STEP)
    await activate_at(valkey.url, checks_only(3))
    labels = f'regrade_active_rubric_version{{lineage="main",task="{TASK}"}} 2.0'
    await until(lambda: labels in httpx.get(f"{url}/metrics").text, "the activation to be known")
    valkey.stop()
    assert digests(score(url, numbered(1), run="r", step=2)) == {checks_only(3).digest}
    valkey.start_again()


async def test_a_lost_announcement_is_made_up_for_by_the_poll(url: str, valkey: Valkey) -> None:
    score(url, numbered(0), **STEP)
    redis = connect(SecretStr(valkey.url))
    digest = await RubricStore(redis).put(TASK, checks_only(3))
    await redis.set(keys.active_key(LINEAGE), str(RubricPointer(digest, 2, None)))
    await redis.aclose()
    labels = f'regrade_active_rubric_version{{lineage="main",task="{TASK}"}} 2.0'
    await until(lambda: labels in httpx.get(f"{url}/metrics").text, "the poll")


async def test_a_request_may_name_the_rubric_of_a_new_step(url: str, valkey: Valkey) -> None:
    first = score(url, numbered(0), **STEP)["results"][0]["rubric"]
    score(url, numbered(0), run="r", step=9, rubric=1)
    await activate_at(valkey.url, checks_only(3))
    await asyncio.to_thread(
        wait_until, lambda: digests(score(url, numbered(7))) == {checks_only(3).digest}, "version 2"
    )
    valkey.stop()
    for step, name in enumerate([first["version"], first["digest"]], 10):
        answer = score(url, numbered(1), run="r", step=step, rubric=name)
        assert digests(answer) == {first["digest"]}
        assert answer["results"][0]["flags"] == ["unpinned"]
        assert digests(score(url, numbered(2), run="r", step=step)) == {first["digest"]}
    for unknown in (77, "0" * 64):
        assert error_of(url, numbered(1), run="r", step=12, rubric=unknown) == (503, "redis_unavailable")
    assert error_of(url, numbered(1), **STEP, rubric=checks_only(3).digest) == (409, "pinned")
    valkey.start_again()


async def test_what_is_not_served_while_redis_is_away(url: str, valkey: Valkey, fake_engine: FakeEngine) -> None:
    score(url, numbered(0), **STEP)
    fake_engine.forget()
    valkey.stop()
    for fields in ({"on_outage": "refuse"}, {"task": "never_met"}, {"lineage": "never-met"}):
        assert error_of(url, numbered(1), **STEP | fields) == (503, "redis_unavailable")
    assert fake_engine.calls == []
    assert gauge(url, "regrade_spool_records") == 0.0
    valkey.start_again()


async def test_measuring_goes_on(url: str, valkey: Valkey) -> None:
    """Candidates and evaluations of rubrics that the replica has served need no pin."""
    first = score(url, numbered(0), **STEP)["results"][0]["rubric"]
    score(url, numbered(0), rubric=first["version"], purpose="eval")
    valkey.stop()
    candidate = rubric(llm("other")).model_dump(mode="json")
    assert score(url, numbered(1), rubric=candidate, purpose="shadow")["results"][0]["reward"] is not None
    assert score(url, numbered(2), rubric=first["version"], purpose="eval")["degraded"] is True
    valkey.start_again()
    await recovered(url)
    assert await traces_by_item(valkey.url) == {"0": 2, "2": 1}


async def test_a_full_spool_takes_no_more_and_judges_no_more(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path, fake_engine: FakeEngine
) -> None:
    url = start_reward(**settings(valkey, tmp_path, spool_max_bytes=12_000)).url
    score(url, numbered(0), **STEP)
    valkey.stop()
    served = 1
    while ask(url, numbered(served), **STEP).status_code == 200:
        served += 1
    assert served > 1
    fake_engine.forget()
    assert error_of(url, numbered(served), **STEP) == (429, "spool_full")
    assert fake_engine.calls == []
    assert score(url, numbered(1), **STEP)["results"][0]["cached"] is True
    assert readiness(url) == (503, {"redis": False, "judge": True, "spool": False})
    assert gauge(url, "regrade_spool_bytes") <= 12_000
    valkey.start_again()
    await recovered(url)
    assert score(url, numbered(served), **STEP)["degraded"] is False
    assert await traces_by_item(valkey.url) == {str(n): 1 for n in range(served + 1)}
    assert gauge(url, "regrade_spool_replayed_records_total") == served - 1
    assert gauge(url, "regrade_spool_bytes") == 0


async def test_a_full_trace_log_is_spooled_then_429(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = start_reward(**settings(valkey, tmp_path, trace_cap=2, spool_max_bytes=12_000)).url
    assert score(url, numbered(0, 1), **STEP)["degraded"] is False
    spooled = score(url, numbered(2), **STEP)
    assert spooled["degraded"] is True
    assert score(url, numbered(2), **STEP)["results"][0]["cached"] is True
    assert error_of(url, numbered(3), **STEP, on_outage="refuse") == (429, "trace_log_full")
    assert error_of(url, numbered(*range(10, 40)), **STEP) == (429, "spool_full")
    await until(lambda: "the spool waits" in caplog.text, "a replay that finds no room")
    assert gauge(url, "regrade_spool_records") == 1.0
    with BlockingRedis.from_url(valkey.url) as connection:
        connection.delete(keys.traces_key(TASK))
    await recovered(url)
    assert await traces_by_item(valkey.url) == {"2": 1}
    assert rewards(score(url, numbered(2), **STEP)) == rewards(spooled)


async def test_ready_while_it_can_serve(url: str, valkey: Valkey) -> None:
    score(url, numbered(0), **STEP)
    valkey.stop()
    assert readiness(url) == (200, {"redis": False, "judge": True, "spool": True})
    assert gauge(url, "regrade_degraded_state") == 1.0
    score(url, numbered(1), **STEP)
    assert gauge(url, "regrade_spool_records") == 1.0
    valkey.start_again()
    await recovered(url)
    assert readiness(url) == (200, {"redis": True, "judge": True, "spool": True})


def test_a_spool_must_not_outlive_the_outcomes(start_reward: StartReward, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spool_max_age_s must be below outcome_ttl_s"):
        start_reward(spool_dir=str(tmp_path), outcome_ttl_s=3_600)
