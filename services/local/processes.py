"""Child processes of the local stack: each logs to a file; all are ended in reverse order of their start."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

import httpx

from services.local.logs import last_problem

_POLL_S = 0.1
_READY_S = 120.0
_SHORT_GRACE_S = 2.0
"""Grace after a second Ctrl-C."""


class StackError(Exception):
    """A process did not start, or died; the message names it, the last problem in its log, and the log."""


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Handle SIGINT and SIGTERM after the block: an exception between fork and registration would leak the child."""
    received: list[int] = []

    def defer(number: int, _: FrameType | None) -> None:
        received.append(number)

    handled = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, defer) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for received_number in received:
            signal.raise_signal(received_number)


class Processes:
    """A context that ends the processes started in it, in reverse order of their start."""

    def __init__(self, folder: Path, *, grace_s: float = 20.0) -> None:
        """Logs go to `folder`; a process still running `grace_s` after SIGTERM is killed."""
        self._folder = folder
        self._grace_s = grace_s
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._log_starts: dict[str, int] = {}
        """Size of each log when its process was started: a run that is continued has older entries."""

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Start `command` with its output in `<name>.log`; returns the process id.

        The process has its own group, so that Ctrl-C reaches only this process, which then ends the others. It shares
        the session, because Linux's autogroup scheduling divides the cores among sessions first and would make `nice`
        ineffective.
        """
        with self._log(name).open("ab") as output, deferred_signals():
            self._log_starts[name] = output.seek(0, os.SEEK_END)
            process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                env=os.environ | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            self._running.append((name, process))
        return process.pid

    def start_server(
        self, name: str, module: Sequence[str], *, ready: str = "", env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Start a `python -m` module on a free port; returns its process id and URL.

        Waits until it has written its port to `--port-file`, and until the path `ready`, if given, answers 2xx.
        Raises `StackError`.
        """
        port_file = self._folder / f"{name}.port"
        port_file.unlink(missing_ok=True)
        pid = self.start(name, [sys.executable, "-m", *module, "--port-file", str(port_file)], env)
        self.wait_for(name, lambda: port_file.is_file() and port_file.read_text() != "", _READY_S)
        url = f"http://127.0.0.1:{port_file.read_text()}"
        if ready:
            self.wait_for(name, lambda: _is_ready(url + ready), _READY_S)
        return pid, url

    def wait_for(self, name: str, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `condition` holds for the process `name`. Raises `StackError` on a timeout or if one dies."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.check(may_end=name)
            if time.monotonic() > deadline:
                raise self._error(name, f"was not ready after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def wait_for_end(self, name: str, timeout_s: float) -> None:
        """Wait until `name` has exited with status 0. Raises `StackError`."""
        self.wait_for(name, lambda: self.check(may_end=name), timeout_s)
        self._running = [(other, process) for other, process in self._running if other != name]

    def check(self, *, may_end: str = "") -> bool:
        """Whether `may_end` has exited with status 0. Raises `StackError` for any other exit."""
        for name, process in self._running:
            code = process.poll()
            if code is not None and (name != may_end or code != 0):
                raise self._error(name, f"ended with status {code}") if code != -signal.SIGKILL else self._killed(name)
        return any(name == may_end and process.poll() == 0 for name, process in self._running)

    def stop(self) -> None:
        """End all processes: SIGTERM, then SIGKILL after the grace period, which a second Ctrl-C shortens."""
        grace_s = self._grace_s
        while self._running:
            _, process = self._running[-1]
            try:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            except KeyboardInterrupt:
                grace_s = min(grace_s, _SHORT_GRACE_S)
                continue
            self._running.pop()

    def _error(self, name: str, what: str) -> StackError:
        problem = last_problem(self._log(name), self._log_starts.get(name, 0))
        return StackError(f"{name} {what}; see {self._log(name)}{problem and f', which ends with:{chr(10)}{problem}'}")

    def _killed(self, name: str) -> StackError:
        """The end of a log says nothing about a SIGKILL."""
        return StackError(f"{name} was ended by SIGKILL, as systems do that run out of memory; see {self._log(name)}")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.TransportError:
        return False
