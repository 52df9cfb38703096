"""Trainer callbacks: the training log, a console line per step, Prometheus metrics, and the divergence stop rule."""

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.trainer.metrics import TRL_METRICS, TrainerMetrics
from services.trainer.settings import StopRule

log = logging.getLogger(__name__)


class StepCallback(TrainerCallback, ABC):  # type: ignore[misc]
    """Calls `on_metrics` once per optimizer step, with TRL's and Regrade's metrics of that step."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs is not None and "reward" in logs:  # the end of a run logs a summary without a reward
            self.on_metrics(state, control, logs)

    @abstractmethod
    def on_metrics(self, state: TrainerState, control: TrainerControl, metrics: dict[str, Any]) -> None: ...


class TrainingLog(StepCallback):
    """Appends one JSON line per step: step, its start and end (Unix seconds), TRL's and Regrade's metrics.

    A resumed run appends to the same file; `read_log` takes the last line of a repeated step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = 0.0
        self._ended = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.time()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._ended = time.time()

    def on_metrics(self, state: TrainerState, control: TrainerControl, metrics: dict[str, Any]) -> None:
        if not state.is_world_process_zero:
            return
        entry: dict[str, Any] = {"step": state.global_step, "started": self._started, "ended": self._ended}
        exported = {name: v for name, v in metrics.items() if name in TRL_METRICS or name.startswith("regrade/")}
        entry |= {name: float(value) for name, value in exported.items()}
        entry["completion_tokens"] = float(metrics.get("completions/mean_length", 0.0))
        entry["clipped_share"] = float(metrics.get("completions/clipped_ratio", 0.0))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Console(StepCallback):
    """Logs one line per step: progress, reward, rubric version, and the estimated time left."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began, self._first_step = time.monotonic(), state.global_step  # above 0 after a resume

    def on_metrics(self, state: TrainerState, control: TrainerControl, metrics: dict[str, Any]) -> None:
        if not state.is_world_process_zero:
            return
        done = max(1, state.global_step - self._first_step)
        remaining_s = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step)
        log.info(
            "step %d/%d  reward %.3f ± %.3f  rubric v%g  %.0f tokens  %.0f s left",
            state.global_step, state.max_steps, metrics["reward"], metrics.get("reward_std", 0.0),
            metrics.get("regrade/rubric_version", 0), metrics.get("completions/mean_length", 0.0), remaining_s,
        )  # fmt: skip


class Prometheus(StepCallback):
    """Serves the last step's metrics at `/metrics` from the first process. Port 0 takes a free one, see `port`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._server: Any = None
        self._registry = CollectorRegistry()
        self._metrics = TrainerMetrics(self._registry)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._server, _thread = start_http_server(self.port, registry=self._registry)
            self.port = self._server.server_port

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def on_metrics(self, state: TrainerState, control: TrainerControl, metrics: dict[str, Any]) -> None:
        self._metrics.set(state.global_step, metrics)


class StopWhenDiverged(StepCallback):
    """Ends a run whose metrics exceed the limits of `rule` for `patience` steps, or are not finite.

    All ranks see the same gathered metrics, so all end at the same step. `reason` is None unless the run was ended.
    """

    def __init__(self, rule: StopRule) -> None:
        self._rule = rule
        self._consecutive = 0
        self.reason: str | None = None

    def on_metrics(self, state: TrainerState, control: TrainerControl, metrics: dict[str, Any]) -> None:
        non_finite = [name for name in ("loss", "grad_norm") if not math.isfinite(float(metrics.get(name, 0.0)))]
        if non_finite:
            self.reason = f"{non_finite[0]} is not finite: {metrics[non_finite[0]]}"
        else:
            exceeded = exceeded_limits(self._rule, metrics)
            self._consecutive = self._consecutive + 1 if exceeded else 0
            if self._consecutive >= self._rule.patience:
                self.reason = f"{', '.join(exceeded)} for {self._consecutive} steps"
        if self.reason is not None:
            control.should_training_stop = True
            control.should_save = not non_finite  # non-finite weights are useless to resume from


def exceeded_limits(rule: StopRule, metrics: dict[str, Any]) -> list[str]:
    """A text for each of the step's metrics that is beyond its limit."""
    limits = [
        ("kl", rule.max_kl, 1), ("grad_norm", rule.max_grad_norm, 1), ("entropy", rule.min_entropy, -1),
        ("regrade/unscored_share", rule.max_unscored, 1),
    ]  # fmt: skip
    return [
        f"{name} {float(metrics[name]):.3g} past {limit:g}"
        for name, limit, sign in limits
        if limit and name in metrics and sign * float(metrics[name]) > sign * limit
    ]
