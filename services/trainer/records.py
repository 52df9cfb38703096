"""Reading a training log, without the training libraries."""

import json
from pathlib import Path

LOG_NAME = "train_log.jsonl"


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a training log by step, the latest of each; empty when there is none yet."""
    if not path.is_file():
        return []
    by_step = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_step[row["step"]] = row
    return [by_step[step] for step in sorted(by_step)]
