"""Where benchmarks write their results, and how."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "out"
"""Default folder; ignored by git."""


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write `content` as JSON, creating the folder; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
