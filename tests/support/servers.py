"""Real servers for tests: an app under uvicorn in a thread (coverage sees it), or a service as a process to be killed.

`ServerThread` takes any FastAPI app, `spawn` any `python -m` module with a `--port-file` or a `PORT_FILE` setting.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from services.kit.settings import ServiceSettings
from services.kit.web.server import server_config
from services.local.engine import MODEL_NAME
from tests.support.waiting import until, wait_until

_START_S = 120.0
_GRACE_S = 60.0
_SHUTDOWN_S = 1.0
_CACHE = Path(__file__).parents[2] / ".cache"
_VLLM_PYTHON = _CACHE / "vllm" / "bin" / "python"
VLLM_MODEL = _CACHE / "vllm-model"
VLLM_ON_CPU = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 32, "block_size": 32}
"""Engine arguments of vLLM in a test's own process; as `spawn_vllm` has them."""


class _Server(uvicorn.Server):
    """uvicorn, with an event for the end of its startup, and without its pauses of 0.1 s when it stops."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.startup_ended = threading.Event()
        """Set on success and on failure; `started` says which."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets)
        finally:
            self.startup_ended.set()

    def request_exit(self) -> None:
        """Begin the shutdown; may be called from any thread, and more than once."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has stopped before
                self._loop.call_soon_threadsafe(self._exit.set)

    async def main_loop(self) -> None:
        if not await self.on_tick(0):
            await self._exit.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # idle connections are closed by the next turn of the loop
        try:
            await until(self._is_idle, "the connections to close", timeout_s=_SHUTDOWN_S)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()

    def _is_idle(self) -> bool:
        return not (self.server_state.connections or self.server_state.tasks)


class ServerThread:
    """An app on a real port of this process, ready when the constructor returns. Raises `RuntimeError` if it fails."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = getattr(app.state, "settings", None) or ServiceSettings()
        config = server_config(app, settings)
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        self._server.startup_ended.wait(_START_S)
        if not self._server.started:
            self._thread.join(_GRACE_S)
            listener.close()
            raise RuntimeError("the app did not start; see the captured log")

    def stop(self) -> None:
        """Shut down as on SIGTERM; does nothing the second time."""
        self._server.request_exit()
        self._thread.join(_GRACE_S)


class Process:
    """A service as a process of its own; `url` is where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self.url = url

    def kill(self) -> None:
        """SIGKILL: it gets no chance to tidy up."""
        self._process.kill()
        self._process.wait(_GRACE_S)

    def stop(self) -> int:
        """SIGTERM, and its exit status; SIGKILL if it does not go. Does nothing to one that has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def spawn(
    command: list[str],
    port_file: Path,
    env: Mapping[str, str],
    *,
    ready: str,
    timeout_s: float,
    python: str = sys.executable,
) -> Process:
    """Start `python -m <command>` and wait until its path `ready` answers 200. The log is beside the port file."""
    log = port_file.with_suffix(".log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python, "-m", *command],
            env=os.environ | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-3_000:]}")
        port = port_file.read_text() if port_file.exists() else ""
        if not port:
            return False
        try:
            return httpx.get(f"http://127.0.0.1:{port}{ready}", timeout=5.0).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, f"{command[0]} to be ready", timeout_s=timeout_s)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Process(process, f"http://127.0.0.1:{port_file.read_text()}")


def spawn_service(module: str, prefix: str, folder: Path, **settings: Any) -> Process:
    """A service as a process: `settings` become `<prefix><NAME>` in its environment, JSON where they are no text."""
    port_file = folder / f"{module}.{len(list(folder.iterdir()))}.port"
    settings = {"port": 0, "port_file": str(port_file), "log_level": "WARNING"} | settings
    env = {f"{prefix}{n.upper()}": v if isinstance(v, str) else json.dumps(v) for n, v in settings.items()}
    return spawn([module], port_file, env, ready="/healthz", timeout_s=60.0)


def spawn_engine(folder: Path, *, slots: int = 4) -> Process:
    """The real llama.cpp engine with SmolLM2-135M-Instruct."""
    port_file = folder / "engine.port"
    command = ["services.local.engine", "--port-file", str(port_file), "--slots", str(slots)]
    return spawn(command, port_file, {}, ready="/health", timeout_s=120.0)


def spawn_vllm(folder: Path) -> Process:
    """Real vLLM on the CPU with SmolLM2-135M-Instruct; `make test-vllm` installs it and converts the model.

    In float32: in bfloat16 a near tie falls as it happens to be batched, and a text is not the same twice.
    """
    port_file = folder / "vllm.port"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port_file.write_text(str(free.getsockname()[1]), encoding="utf-8")
    command = ["vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", port_file.read_text()]
    command += ["--model", str(VLLM_MODEL), "--served-model-name", MODEL_NAME, "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "32", "--block-size", "32"]
    env = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    return spawn(command, port_file, env, ready="/health", timeout_s=280.0, python=str(_VLLM_PYTHON))
