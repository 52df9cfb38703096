"""Child processes of the local stack: started with their log in a file, ended in reverse order, never left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_S = 0.1
_IMPATIENT_GRACE_S = 2.0


class StackError(Exception):
    """A part of the stack did not start or died; the message says which, and where its log is."""


class Processes:
    """A context: whatever was started in it has ended when it is left, in reverse order of start."""

    def __init__(self, folder: Path, *, grace_s: float = 20.0) -> None:
        """Logs go into `folder`; a part that has not ended `grace_s` after SIGTERM is killed."""
        self._folder = folder
        self._grace_s = grace_s
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Start `command`, its output in `<name>.log`; returns its process id.

        In a process group of its own, so that Ctrl-C reaches us and we end it; but in our session:
        Linux shares the cores out between sessions first, and `nice` would count for nothing.
        """
        with self._log(name).open("ab") as output:
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

    def wait_for(self, name: str, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until a part is ready. Raises `StackError` when it dies or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.check(may_end=name)
            if time.monotonic() > deadline:
                raise StackError(f"{name} was not ready after {timeout_s:.0f} s; see {self._log(name)}")
            time.sleep(_POLL_S)

    def wait_for_end(self, name: str, timeout_s: float) -> None:
        """Wait until a part has done its work and ended well. Raises `StackError`."""
        self.wait_for(name, lambda: self.check(may_end=name), timeout_s)
        self._running = [(other, process) for other, process in self._running if other != name]

    def check(self, *, may_end: str = "") -> bool:
        """Whether `may_end` has ended well. Raises `StackError` when anything else ended, or that one badly."""
        for name, process in self._running:
            code = process.poll()
            if code is not None and (name != may_end or code != 0):
                raise StackError(f"{name} ended with status {code}; see {self._log(name)}")
        return any(name == may_end and process.poll() == 0 for name, process in self._running)

    def stop(self) -> None:
        """End everything: SIGTERM, then SIGKILL for what does not go within its grace.

        A second Ctrl-C meanwhile shortens the grace; it leaves nothing behind.
        """
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
                grace_s = min(grace_s, _IMPATIENT_GRACE_S)
                continue
            self._running.pop()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
