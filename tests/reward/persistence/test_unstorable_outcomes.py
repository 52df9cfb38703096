"""An outcome that cannot be stored: the judge is not paid for it a second time."""

import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis as BlockingRedis

from services.kit.store import keys
from services.reward.persistence.spool_file import SpoolFile
from tests.conftest import StartReward
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine
from tests.support.outage import (
    STEP,
    ask,
    error_of,
    gauge,
    numbered,
    own_valkey,
    readiness,
    recovered,
    score,
    settings,
    traces_by_item,
)
from tests.support.valkey import Valkey
from tests.support.waiting import until

valkey = own_valkey


@pytest.mark.parametrize("fields", [STEP, {"purpose": "eval"}], ids=["training", "evaluation"])
async def test_a_spool_whose_disk_fails_costs_no_second_judge_call(
    start_reward: StartReward,
    valkey: Valkey,
    tmp_path: Path,
    fake_engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    url = start_reward(**settings(valkey, tmp_path)).url
    score(url, numbered(0), **STEP)
    valkey.stop()
    with monkeypatch.context() as failing:
        for name in ("insert", "fill"):
            failing.setattr(SpoolFile, name, fail)
        assert error_of(url, numbered(1), **fields) == (503, "spool_failed")
        fake_engine.forget()
        for n in range(2, 5):
            assert error_of(url, numbered(n), **fields) == (503, "spool_failed")
        assert fake_engine.calls == []
        assert readiness(url) == (503, {"redis": False, "judge": True, "spool": False})
    await until(lambda: ask(url, numbered(1), **fields).status_code == 200, "the probe to succeed")
    valkey.start_again()
    await recovered(url)
    assert await traces_by_item(valkey.url) == {"0": 1, "1": 1}


@pytest.mark.parametrize("cap", [{"trace_cap": 2}, {"trace_cap_bytes": 1_500}], ids=["entries", "bytes"])
async def test_a_full_trace_log_costs_no_second_judge_call(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path, fake_engine: FakeEngine, cap: dict[str, int]
) -> None:
    url = start_reward(**settings(valkey, tmp_path, spool_dir="", **cap)).url
    score(url, numbered(0, 1), **STEP)
    assert error_of(url, numbered(2), **STEP) == (429, "trace_log_full")
    fake_engine.forget()
    for n in range(3, 6):
        assert error_of(url, numbered(n), **STEP) == (429, "trace_log_full")
    assert fake_engine.calls == []
    assert score(url, numbered(1), **STEP)["results"][0]["cached"] is True
    with BlockingRedis.from_url(valkey.url) as connection:
        connection.xtrim(keys.traces_key(TASK), maxlen=0, approximate=False)
    assert score(url, numbered(2), **STEP)["degraded"] is False
    assert gauge(url, "regrade_trace_log_limit_bytes") == float(cap.get("trace_cap_bytes", 4e9))
    sample = f'regrade_trace_log_bytes{{task="{TASK}"}}'
    await until(lambda: sample in httpx.get(f"{url}/metrics").text, "the size to be measured")


async def test_a_key_of_another_type_costs_no_second_judge_call(
    start_reward: StartReward, valkey: Valkey, tmp_path: Path, fake_engine: FakeEngine
) -> None:
    url = start_reward(**settings(valkey, tmp_path)).url
    with BlockingRedis.from_url(valkey.url) as connection:
        connection.set(keys.traces_key(TASK), "something else's")
        assert error_of(url, numbered(0), **STEP) == (503, "redis_wrong_type")
        fake_engine.forget()
        assert error_of(url, numbered(1), **STEP) == (503, "redis_wrong_type")
        assert fake_engine.calls == []
        connection.delete(keys.traces_key(TASK))
    assert score(url, numbered(1), **STEP)["degraded"] is False
