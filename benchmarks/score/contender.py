"""The benchmark's side of a contender process (`worker.py`): start it, request measurements, read the results."""

import json
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

_TIMEOUT_S = 120.0


class ContenderFailed(Exception):
    """A contender could not be measured; the message says why."""


class Contender:
    """A process that measures on request. Its other output goes to `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        self._log = log

    def measure(self, **request: Any) -> dict[str, Any]:
        """One measurement. Raises `ContenderFailed`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderFailed(f"its process has ended; see {self._log}") from None
        readable, _, _ = select.select([self._process.stdout], [], [], _TIMEOUT_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise ContenderFailed(f"no result within {_TIMEOUT_S:.0f} s; see {self._log}")
        result: dict[str, Any] = json.loads(line)
        if "error" in result:
            raise ContenderFailed(result["error"])
        return result

    def close(self) -> None:
        """End the process by closing its input; kill it if it does not end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
