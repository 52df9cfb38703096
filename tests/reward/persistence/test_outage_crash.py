"""I5 through a Redis outage and the death of the process that spools: the volume is enough."""

import logging
from pathlib import Path

import pytest

from tests.conftest import SpawnReward, StartReward
from tests.support.builders import TASK, checks_only
from tests.support.fake_engine import FakeEngine
from tests.support.outage import (
    STEP,
    activate_at,
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
)
from tests.support.outage import traces_by_item as by_item
from tests.support.valkey import Valkey
from tests.support.waiting import until

NEXT = {"run": "r", "step": 2}

valkey = own_valkey


async def test_i5_killed_and_started_again_while_redis_is_away(
    spawn_reward: SpawnReward, valkey: Valkey, tmp_path: Path, fake_engine: FakeEngine
) -> None:
    """The new process answers retries from the disk, goes on under the pins that stand there, and replays once."""
    first = spawn_reward(**settings(valkey, tmp_path))
    score(first.url, numbered(0), **STEP)
    valkey.stop()
    during = [score(first.url, numbered(1), **STEP), score(first.url, numbered(2, 3), **NEXT)]
    first.kill()
    fake_engine.forget()
    second = spawn_reward(**settings(valkey, tmp_path))
    again = [score(second.url, numbered(1), **STEP), score(second.url, numbered(2, 3), **NEXT)]
    assert [rewards(answer) for answer in again] == [rewards(answer) for answer in during]
    assert all(answer["degraded"] and answer["usage"]["judge_calls"] == 0 for answer in again)
    assert fake_engine.calls == []
    known, made_up = score(second.url, numbered(4), **STEP), score(second.url, numbered(5), **NEXT)
    assert [answer["results"][0]["flags"] for answer in (known, made_up)] == [[], ["unpinned"]]
    assert digests(known) == digests(made_up) == digests(during[0])
    assert error_of(second.url, numbered(6), **STEP, task="never_met") == (503, "redis_unavailable")
    valkey.start_again()
    await recovered(second.url)
    assert await by_item(valkey.url) == {str(n): 1 for n in range(6)}
    assert rewards(score(second.url, numbered(2, 3), **NEXT)) == rewards(during[1])


async def test_i5_killed_while_it_replays(
    spawn_reward: SpawnReward, start_reward: StartReward, valkey: Valkey, tmp_path: Path
) -> None:
    """Killed as soon as some of the spool is in Redis: the next one begins again and leaves no second trace."""
    small = {"spool_fsync": False}
    first = spawn_reward(**settings(valkey, tmp_path, **small))
    score(first.url, numbered(0), **STEP)
    valkey.stop()
    count = 120
    for start in range(1, count, 8):
        score(first.url, numbered(*range(start, min(start + 8, count))), **STEP)
    assert gauge(first.url, "regrade_spool_records") == count - 1
    valkey.start_again()

    async def some_are_in() -> bool:
        return len(await traces(valkey.url)) > 1

    await until(some_are_in, "the replay to begin")
    first.kill()
    second = start_reward(**settings(valkey, tmp_path, **small))
    await recovered(second.url)
    assert await by_item(valkey.url) == {str(n): 1 for n in range(count)}


async def test_i5_a_living_replica_takes_over_what_a_dead_one_left(
    spawn_reward: SpawnReward, start_reward: StartReward, valkey: Valkey, tmp_path: Path
) -> None:
    victim, survivor = spawn_reward(**settings(valkey, tmp_path)), start_reward(**settings(valkey, tmp_path))
    for n, url in enumerate((victim.url, survivor.url)):
        score(url, numbered(n), **STEP)
    valkey.stop()
    for n, url in enumerate((victim.url, survivor.url), 2):
        score(url, numbered(n), **STEP)
    victim.kill()
    valkey.start_again()

    async def all_are_in() -> bool:
        return len(await traces(valkey.url)) >= 4

    await until(all_are_in, "the survivor to replay both")
    await recovered(survivor.url)
    assert await by_item(valkey.url) == {str(n): 1 for n in range(4)}


async def test_i5_killed_after_the_replay_and_before_the_file_is_deleted(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path
) -> None:
    """The same files come back after Redis has taken them all: nothing is left twice."""
    first = start_reward(**settings(valkey, tmp_path))
    score(first.url, numbered(0), **STEP)
    valkey.stop()
    score(first.url, numbered(1, 2), **NEXT)
    files = {path: path.read_bytes() for path in (tmp_path / "spool").iterdir()}
    valkey.start_again()
    await recovered(first.url)
    first.stop()
    for path, content in files.items():
        path.write_bytes(content)
    second = start_reward(**settings(valkey, tmp_path))
    await recovered(second.url)
    # A file is deleted shortly after its last entry is counted as replayed.
    await until(lambda: not any(path.exists() for path in files), "the replayed files to be deleted")
    assert await by_item(valkey.url) == {"0": 1, "1": 1, "2": 1}


async def test_i5_the_pin_was_taken_while_nobody_was_there(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path, fake_engine: FakeEngine
) -> None:
    """Replay by a new process onto a step that another replica has pinned otherwise meanwhile."""
    first = start_reward(**settings(valkey, tmp_path))
    score(first.url, numbered(0), **STEP)
    valkey.stop()
    during = score(first.url, numbered(1), **NEXT)
    first.stop()
    valkey.start_again()
    await activate_at(valkey.url, checks_only(3))
    other = start_reward(redis_url=valkey.url)
    assert digests(score(other.url, numbered(2), **NEXT)) == {checks_only(3).digest}
    second = start_reward(**settings(valkey, tmp_path))
    await recovered(second.url)
    fake_engine.forget()
    again = score(other.url, numbered(1), **NEXT)
    assert (rewards(again), digests(again)) == (rewards(during), digests(during))
    assert await by_item(valkey.url) == {"0": 1, "1": 1, "2": 1}


async def test_started_without_redis_and_without_a_spool_it_refuses_until_redis_comes(
    start_reward: StartReward, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says why it is not ready; no traceback, and nothing to be started again."""
    valkey.stop()
    server = start_reward(redis_url=valkey.url, bootstrap_tasks=[TASK])
    assert readiness(server.url) == (503, {"redis": False, "judge": True})
    assert error_of(server.url, numbered(0), **STEP) == (503, "redis_unavailable")
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.levelname, getattr(record, "kind", "")) for record in warnings] == [("WARNING", "unavailable")]
    assert not any(record.exc_info for record in caplog.records)
    valkey.start_again()
    await until(lambda: readiness(server.url)[0] == 200, "the service to be ready")
    assert score(server.url, numbered(0), **STEP)["degraded"] is False


async def test_started_without_redis_it_is_prepared_when_redis_comes(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path
) -> None:
    valkey.stop()
    server = start_reward(**settings(valkey, tmp_path))
    assert readiness(server.url) == (503, {"redis": False, "judge": True, "spool": True})
    valkey.start_again()
    await until(lambda: readiness(server.url)[0] == 200, "the service to be ready")
    assert score(server.url, numbered(0), **STEP)["degraded"] is False
