"""The benchmark's side of a contender's process (`worker.py`): start it, give orders, read what it measured."""

import json
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

_ANSWER_S = 120.0


class ContenderFailed(Exception):
    """It could not be measured; the message says why."""


class Contender:
    """A process that measures what it is told to. Its output other than answers is in `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as complaints:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
            )
        self._log = log

    def measure(self, **order: Any) -> dict[str, Any]:
        """One measurement. Raises `ContenderFailed`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderFailed(f"its process has ended; see {self._log}") from None
        readable, _, _ = select.select([self._process.stdout], [], [], _ANSWER_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise ContenderFailed(f"no answer within {_ANSWER_S:.0f} s; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(answer["error"])
        return answer

    def close(self) -> None:
        """End the process: at the end of its input, or else by force."""
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
