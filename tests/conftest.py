"""Fixtures on real parts: Valkey, uvicorn, the llama.cpp engine; and a scripted engine for faults and timing."""

import functools
import os
import signal
import ssl
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

# Every HTTP client loads the certificates, which takes 30 ms, and no test speaks TLS: they share one context.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]
for size in ("COLUMNS", "LINES"):  # xdist sets them to 80 and 24, and a `rich` console keeps what it was made with
    os.environ.pop(size, None)

VLLM_URL = "REGRADE_TEST_VLLM_URL"
_PROCESS_FIXTURES = {"spawn_reward", "spawn_meta", "spawned"}
"""Fixtures that start a service as a process: tests with one of them are marked `slow`."""


def pytest_sessionstart() -> None:
    """Handle SIGINT again where a shell started the tests in the background, with it ignored: children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what starts processes, deselect what is too large to run unasked, and put the slow tests first.

    Slow tests first: with several workers the short ones then fill the gaps at the end.
    """
    for item in items:
        if _PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
        if item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.xdist_group("engine"))
    _deselect(config, items, _absent(config))
    items.sort(key=lambda item: not (item.get_closest_marker("engine") or item.get_closest_marker("slow")))


def _absent(config: pytest.Config) -> list[str]:
    """Markers of tests that need vLLM or other trainers: not run unless selected by `-m`, or given by URL."""
    selected = config.option.markexpr + (" vllm" if os.environ.get(VLLM_URL) else "")
    return [marker for marker in ("vllm", "inprocess", "trainers") if marker not in selected]


def _deselect(config: pytest.Config, items: list[pytest.Item], markers: list[str]) -> None:
    unwanted = [item for item in items if any(item.get_closest_marker(marker) for marker in markers)]
    if unwanted:
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadgroup` a module stays on one worker, so that its fixtures are made once; a group does too."""
    from xdist.scheduler import LoadGroupScheduling

    class ByModule(LoadGroupScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            group = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if group == nodeid else group

    if config.option.dist != "loadgroup":
        return None
    config.option.loadscopereorder = False  # the order of the collection, see above
    return ByModule(config, log)


class StartReward(Protocol):
    """Starts a reward service in this process, on the fake engine unless `settings` name another."""

    def __call__(self, **settings: Any) -> ServerThread: ...


class SpawnReward(Protocol):
    """Starts a reward service as a process, on the fake engine unless `settings` name another."""

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
    """Opens vLLM in the test's own process; its tests run in vLLM's environment, in one event loop."""
    from services.reward.judge.engine.inprocess import InprocessModel

    model = InprocessModel(
        str(VLLM_MODEL),
        batch_size=64,
        timeout_s=60.0,
        max_model_len=4_096,
        gpu_memory=0.9,
        engine_args=dict(VLLM_ON_CPU),
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
