"""What goes on beside the training log: a line a step on the console, Prometheus, and the end of a diverged run."""

import logging
import math
import time
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from services.trainer.settings import StopRule

log = logging.getLogger(__name__)

_FIGURES = ("loss", "reward", "reward_std", "grad_norm", "kl", "entropy", "frac_reward_zero_std", "learning_rate")


class Console(TrainerCallback):  # type: ignore[misc]
    """A line a step: how far, the reward, the rubric, and when it will be done."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note where the run stands, which is later than 0 after a resume."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Tell of the step."""
        if not state.is_world_process_zero or logs is None or "reward" not in logs:
            return
        done = max(1, state.global_step - self._first)
        left = (time.monotonic() - self._began) / done * (state.max_steps - state.global_step)
        log.info(
            "step %d/%d  reward %.3f ± %.3f  rubric v%g  %.0f tokens  %.0f s left",
            state.global_step, state.max_steps, logs["reward"], logs.get("reward_std", 0.0),
            logs.get("regrade/rubric_version", 0), logs.get("completions/mean_length", 0.0), left,
        )  # fmt: skip


class Prometheus(TrainerCallback):  # type: ignore[misc]
    """The newest figures at `/metrics` of a port of the first process; with 0, `port` is the one it got."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._server: Any = None
        registry = self._registry = CollectorRegistry()
        self._step = Gauge("regrade_trainer_step", "Optimizer steps done.", registry=registry)
        self._version = Gauge("regrade_trainer_rubric_version", "Version that scored the step.", registry=registry)
        self._unscored = Gauge("regrade_trainer_unscored_share", "Completions without a reward.", registry=registry)
        self._figure = Gauge("regrade_trainer_figure", "The step's figures.", ("name",), registry=registry)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Listen."""
        if state.is_world_process_zero:
            self._server, _thread = start_http_server(self.port, registry=self._registry)
            self.port = self._server.server_port

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Take over the step's figures."""
        if logs is None or "reward" not in logs:
            return
        self._step.set(state.global_step)
        self._version.set(logs.get("regrade/rubric_version", 0))
        self._unscored.set(logs.get("regrade/unscored_share", 0))
        for name in _FIGURES:
            if name in logs:
                self._figure.labels(name).set(float(logs[name]))


def broken_rules(rule: StopRule, logs: dict[str, Any]) -> list[str]:
    """What of a step's figures is past its limit."""
    limits = [
        ("kl", rule.max_kl, 1), ("grad_norm", rule.max_grad_norm, 1), ("entropy", rule.min_entropy, -1),
        ("regrade/unscored_share", rule.max_unscored, 1),
    ]  # fmt: skip
    return [
        f"{name} {float(logs[name]):.3g} past {limit:g}"
        for name, limit, sign in limits
        if limit and name in logs and sign * float(logs[name]) > sign * limit
    ]


class StopWhenDiverged(TrainerCallback):  # type: ignore[misc]
    """Ends a run, with a checkpoint, whose figures are past their limits for some steps, or no numbers at once.

    Every rank sees the same gathered figures, so all of them end at the same step.
    """

    def __init__(self, rule: StopRule) -> None:
        self._rule = rule
        self._in_a_row = 0
        self.reason: str | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Judge the step."""
        if logs is None or "reward" not in logs:
            return
        odd = [name for name in ("loss", "grad_norm") if not math.isfinite(float(logs.get(name, 0.0)))]
        if odd:
            self.reason = f"{odd[0]} is no finite number"
        else:
            broken = broken_rules(self._rule, logs)
            self._in_a_row = self._in_a_row + 1 if broken else 0
            if self._in_a_row >= self._rule.patience:
                self.reason = f"{', '.join(broken)} for {self._in_a_row} steps"
        if self.reason is not None:
            control.should_training_stop = True
            control.should_save = not odd  # weights that are no numbers are nothing to resume from
