"""The local stack's processes: Valkey with a password, both services on a running engine."""

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from regrade.contracts import Stage
from services.local.engine import gguf_path
from services.local.observer import RunObserver
from services.local.processes import Processes
from services.local.settings import LocalSettings
from services.local.stack import Stack
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.slow


def test_stack_starts_and_is_observed(tmp_path: Path, fake_engine: FakeEngine) -> None:
    settings = LocalSettings(judge_url=fake_engine.url, runs_dir=tmp_path)
    messages: list[str] = []
    with Processes(tmp_path) as processes:
        addresses = Stack(settings, tmp_path, processes).start(messages.append)
        assert messages == ["starting Valkey", "starting the reward service", "starting the meta-reward service"]
        with Redis.from_url(addresses.redis) as redis:
            assert redis.ping()
        port = int(addresses.redis.rpartition(":")[2].split("/")[0])
        with Redis(port=port) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        observer = RunObserver(TASK, addresses.meta_reward, tmp_path / "none.jsonl")
        snapshot = observer.snapshot()
        assert snapshot.active is not None
        assert (snapshot.active.version, snapshot.status.stage, snapshot.steps) == (1, Stage.IDLE, [])
        assert observer.cycles() == []
        assert observer.diff(snapshot.active.digest, snapshot.active.digest).text == ""
        processes.stop()
        assert observer.snapshot().lineage == snapshot.lineage, "while the services are down, the last one is kept"
        observer.close()


def test_model_file_is_installed() -> None:
    assert gguf_path().stat().st_size > 50_000_000
