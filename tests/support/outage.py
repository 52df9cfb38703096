"""A reward service with a spool, and a Valkey that a test stops and starts again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from regrade.contracts import Trace
from services.kit.store.redis import connect
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from tests.support.builders import TASK, activate, item
from tests.support.valkey import Valkey, running_valkey
from tests.support.waiting import until

STEP = {"run": "r", "step": 1}


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of the test's own that keeps its data while it is down."""
    with running_valkey(tmp_path / "valkey") as server:
        yield server


def numbered(*numbers: int) -> list[dict[str, Any]]:
    """Items whose ids are these numbers."""
    return [item(n, id=str(n)) for n in numbers]


def settings(valkey: Valkey, folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of a service that spools below `folder` and gives up on a silent Redis after a second."""
    spool = {"spool_dir": str(folder / "spool"), "redis_timeout_s": 1.0, "active_poll_s": 0.2}
    return {"redis_url": valkey.url, "bootstrap_tasks": [TASK]} | spool | more


def ask(url: str, items: Sequence[dict[str, Any]], **fields: Any) -> httpx.Response:
    """One `/score` call."""
    return httpx.post(f"{url}/score", json={"task": TASK, "items": list(items)} | fields, timeout=60.0)


def readiness(url: str) -> tuple[int, dict[str, bool]]:
    """Status and parts of `/readyz`."""
    answer = httpx.get(f"{url}/readyz", timeout=60.0)
    return answer.status_code, {name: part for name, part in answer.json().items() if name != "problems"}


def readiness_problems(url: str) -> dict[str, str]:
    """What `/readyz` says is wrong, by dependency."""
    problems: dict[str, str] = httpx.get(f"{url}/readyz", timeout=60.0).json().get("problems", {})
    return problems


def error_of(url: str, items: Sequence[dict[str, Any]], **fields: Any) -> tuple[int, str]:
    """Status and code of a `/score` call that must be refused."""
    answer = ask(url, items, **fields)
    assert answer.status_code >= 400, answer.text
    assert answer.status_code not in (429, 503) or int(answer.headers["Retry-After"]) > 0
    return answer.status_code, answer.json()["error"]


def score(url: str, items: Sequence[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """One `/score` call that must be served."""
    answer = ask(url, items, **fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def gauge(url: str, name: str) -> float:
    """A metric without labels."""
    lines = httpx.get(f"{url}/metrics", timeout=60.0).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


async def recovered(url: str) -> None:
    """Return once the service has its Redis and an empty spool."""

    def done() -> bool:
        return gauge(url, "regrade_degraded_state") == gauge(url, "regrade_spool_records") == 0.0

    await until(done, "the spool to be replayed")


async def traces(redis_url: str) -> list[Trace]:
    """The traces in the log."""
    redis = connect(SecretStr(redis_url))
    log = (await TraceLog(redis).recent(TASK, 10_000)).traces
    await redis.aclose()
    return log


async def traces_by_item(redis_url: str) -> Counter[str]:
    """How many traces each item has."""
    return Counter(trace.item_id for trace in await traces(redis_url))


async def activate_at(redis_url: str, rubric: Any) -> None:
    """Make a rubric active."""
    redis = connect(SecretStr(redis_url))
    await activate(RubricStore(redis), rubric)
    await redis.aclose()


def rewards(answer: dict[str, Any]) -> list[float | None]:
    """The rewards of an answer."""
    return [result["reward"] for result in answer["results"]]


def digests(answer: dict[str, Any]) -> set[str]:
    """The rubrics of an answer."""
    return {result["rubric"]["digest"] for result in answer["results"]}
