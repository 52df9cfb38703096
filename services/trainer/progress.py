"""The training log: one JSON line a step, for whoever follows the run."""

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_KEPT = ("loss", "reward", "reward_std", "grad_norm", "kl", "entropy", "frac_reward_zero_std", "learning_rate")
_LENGTH = "completions/mean_length"
_CLIPPED = "completions/clipped_ratio"


class TrainingLog(TrainerCallback):  # type: ignore[misc]
    """Appends to `train_log.jsonl`: step, its start and end (Unix seconds), and TRL's and Regrade's metrics.

    A resumed run appends too; for a step that stands twice, the later line is the one that counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = 0.0
        self._ended = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note when the step began."""
        self._started = time.time()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note when the step ended."""
        self._ended = time.time()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write the step's line."""
        if not state.is_world_process_zero or logs is None or "reward" not in logs:
            return
        line: dict[str, Any] = {"step": state.global_step, "started": self._started, "ended": self._ended}
        line |= {name: float(logs[name]) for name in _KEPT if name in logs}
        line |= {name: float(value) for name, value in logs.items() if name.startswith("regrade/")}
        line |= {"completion_tokens": float(logs.get(_LENGTH, 0.0)), "clipped_share": float(logs.get(_CLIPPED, 0.0))}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
