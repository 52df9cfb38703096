"""Reading a training log, without importing the training libraries."""

import json
from pathlib import Path

LOG_NAME = "train_log.jsonl"


def read_log(path: Path) -> list[dict[str, float]]:
    """The entries of a training log in step order; a resumed run's entry replaces an earlier one of the same step.

    Empty when the file does not exist yet.
    """
    if not path.is_file():
        return []
    by_step = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]
