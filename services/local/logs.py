"""Why a process failed, from the end of its log."""

import json
from collections.abc import Iterator
from pathlib import Path

_TAIL_BYTES = 64_000
_MAX_PROBLEMS = 5
_SEVERE = ("WARNING", "ERROR", "CRITICAL")


def last_problem(path: Path, start: int = 0) -> str:
    """The last lines of a log, from byte `start` on, that say what went wrong; "" if the log is empty.

    Of JSON entries those of level WARNING or worse; of tracebacks the exception alone.
    """
    if not path.is_file():
        return ""
    with path.open("rb") as log:
        log.seek(max(start, path.stat().st_size - _TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    problems = list(dict.fromkeys(text for line in lines for text in _problems(line)))
    return "\n".join(problems[-_MAX_PROBLEMS:])


def _problems(line: str) -> Iterator[str]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "message" not in entry:
        yield from _without_frames(line)
    elif entry.get("level") in _SEVERE:
        yield from _without_frames(str(entry["message"]))
        yield from _without_frames(str(entry.get("exc_info") or ""))
        if entry.get("error"):
            yield str(entry["error"])


def _without_frames(text: str) -> Iterator[str]:
    """The lines of a text but those of a traceback's frames, which are indented or announce them."""
    for line in text.splitlines():
        if line.strip() and not line[0].isspace() and not line.startswith(("Traceback (", "During handling of")):
            yield line.rstrip()
