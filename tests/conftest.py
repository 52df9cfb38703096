"""Fixtures on real parts: Valkey, uvicorn, the llama.cpp engine; and a scripted engine for faults and timing."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings
from pydantic import SecretStr
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from regrade import RewardClient
from services.kit.store.redis import connect
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.reward.app import create_app
from services.reward.judge.engine.base import Engine
from services.reward.settings import RewardSettings
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine
from tests.support.servers import (
    VLLM_MODEL,
    VLLM_ON_CPU,
    Process,
    ServerThread,
    spawn_engine,
    spawn_service,
    spawn_vllm,
)
from tests.support.valkey import Valkey, running_valkey

settings.register_profile("regrade", deadline=None, derandomize=True, database=None)
settings.load_profile("regrade")


VLLM_URL = "REGRADE_TEST_VLLM_URL"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs vLLM or other trainers, which are large, unless asked for by marker or given by URL."""
    wanted = config.option.markexpr
    absent = [marker for marker in ("vllm", "inprocess", "trainers") if marker not in wanted]
    if os.environ.get(VLLM_URL) and "vllm" in absent:
        absent.remove("vllm")
    left_out = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


class StartReward(Protocol):
    """Starts a reward service in this process, on the fake engine unless told otherwise."""

    def __call__(self, **settings: Any) -> ServerThread: ...


class SpawnReward(Protocol):
    """Starts a reward service as a process of its own, on the fake engine unless told otherwise."""

    def __call__(self, **settings: Any) -> Process: ...


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """The session's Valkey; use `redis_url`, which empties it first."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """URL of an empty Redis."""
    with BlockingRedis.from_url(valkey.url) as connection:
        connection.flushall()
    return valkey.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client as the services have it."""
    client = connect(SecretStr(redis_url))
    yield client
    await client.aclose()


@pytest.fixture
def store(redis: Redis) -> RubricStore:
    """A rubric store with an empty cache."""
    return RubricStore(redis)


@pytest.fixture
def trace_log(redis: Redis) -> TraceLog:
    """The trace log with its usual limits."""
    return TraceLog(redis)


@pytest.fixture
def fake_engine() -> Iterator[FakeEngine]:
    """A scripted engine, running, in llama.cpp's dialect."""
    engine = FakeEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def engine_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real llama.cpp engine; mark tests that use it with `engine`."""
    process = spawn_engine(tmp_path_factory.mktemp("engine"))
    yield process.url
    process.stop()


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real vLLM: the one at `REGRADE_TEST_VLLM_URL`, else one on this CPU; mark tests that use it with `vllm`."""
    given = os.environ.get(VLLM_URL)
    if given:
        yield given
        return
    process = spawn_vllm(tmp_path_factory.mktemp("vllm"))
    yield process.url
    process.stop()


@pytest.fixture(scope="session")
async def inprocess() -> AsyncIterator[Callable[[], Awaitable[Engine]]]:
    """What opens vLLM in this very process; tests that use it run in vLLM's environment, in one event loop."""
    from services.reward.judge.engine.inprocess import InprocessModel

    model = InprocessModel(
        str(VLLM_MODEL), batch=64, timeout_s=60.0, context=4_096, gpu_memory=0.9, more=dict(VLLM_ON_CPU)
    )
    yield model.open
    await model.aclose()


@pytest.fixture
def start_reward(redis_url: str, fake_engine: FakeEngine) -> Iterator[StartReward]:
    """Factory of in-process reward services; all are stopped at the end of the test."""
    defaults = {"redis_url": redis_url, "judge_url": fake_engine.url, "judge_retries": 0, "fence_key": "the tests' own"}
    with ExitStack() as running:

        def start(**settings: Any) -> ServerThread:
            server = ServerThread(create_app(RewardSettings.model_validate(defaults | settings)))
            running.callback(server.stop)
            return server

        yield start


@pytest.fixture
def spawn_reward(redis_url: str, fake_engine: FakeEngine, tmp_path: Path) -> Iterator[SpawnReward]:
    """Factory of reward services as processes; all are ended at the end of the test."""
    defaults = {"redis_url": redis_url, "judge_url": fake_engine.url, "judge_retries": 0}
    with ExitStack() as running:

        def start(**settings: Any) -> Process:
            process = spawn_service("services.reward", "REGRADE_REWARD_", tmp_path, **(defaults | settings))
            running.callback(process.stop)
            return process

        yield start


@pytest.fixture
def reward_url(start_reward: StartReward) -> str:
    """A reward service on the fake engine, with the starting rubric of `essay_writing` active."""
    return start_reward(bootstrap_tasks=[TASK]).url


@pytest.fixture
async def client(reward_url: str) -> AsyncIterator[RewardClient]:
    """A client of `reward_url`."""
    async with RewardClient(reward_url, patience_s=10.0) as reward_client:
        yield reward_client
