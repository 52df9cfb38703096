"""Starts the whole system on one machine without Docker: Valkey, an engine, both services, a training run."""

import json
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from services.local.engine import MODEL_NAME, gguf_path
from services.local.processes import Processes
from services.local.settings import LocalSettings
from services.local.valkey import PASSWORD_VARIABLE
from services.trainer.records import LOG_NAME

_JUDGE_SLOTS = 4
_JUDGE_WORDS = 12
"""Words of the small judge's plans and rationales: generating them is slow, and they do not improve its scores."""
_TRAINER_NICE = 10
"""The trainer computes all the time; the judge computes in bursts, which the trainer waits for."""
_GATE_ALPHA = 0.2
"""Error level of the gate's decisions: the demonstration's 12 originals can hardly show a gain at 0.05."""


class Addresses(NamedTuple):
    """URLs of the processes."""

    redis: str
    judge: str
    reward: str
    meta_reward: str


class Stack:
    """Starts the processes in order, each once the previous one is ready; logs and port files go to `folder`."""

    def __init__(self, settings: LocalSettings, folder: Path, processes: Processes) -> None:
        self._settings = settings
        self._folder = folder
        self._processes = processes

    def start(self, progress: Callable[[str], None]) -> Addresses:
        """Start everything but the trainer. Raises `StackError`."""
        progress("starting Valkey")
        redis = self._start_valkey()
        judge, model = self._settings.judge_url, self._settings.judge_model
        if not judge:
            progress(f"starting the judge: llama.cpp with {MODEL_NAME}")
            judge, model = self._start_engine(), MODEL_NAME
        progress("starting the reward service")
        reward = self._start_reward(redis, judge, model)
        progress("starting the meta-reward service")
        meta_reward = self._start_meta_reward(redis, judge, model, reward)
        return Addresses(redis, judge, reward, meta_reward)

    def start_trainer(self, addresses: Addresses, policy: Path, run: str) -> Path:
        """Start the training run; returns the path of its log."""
        settings = self._settings
        output = self._folder / "training"
        options = {
            "task": settings.task,
            "run": run,
            "model": str(policy),
            "output-dir": str(output),
            "reward-url": addresses.reward,
            "steps": str(settings.steps),
            "groups-per-step": "2",
            "group-size": "3",
            "max-completion-tokens": "80",
            "learning-rate": "5e-6",
            "save-every": "10",
            "seed": str(settings.seed),
            "scopes": "false",  # too few traces for evidence on a single scope
            "use-cpu": "true",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._start_python("trainer", "services.trainer.train", arguments, self._passive_threads())
        return output / LOG_NAME

    def convert_policy(self, folder: Path) -> None:
        """Convert the judge's GGUF file into a trainable policy, once for all runs."""
        arguments = ["--gguf", str(gguf_path()), "--folder", str(folder)]
        self._start_python("policy", "services.trainer.convert_gguf", arguments, self._passive_threads())
        self._processes.wait_for_end("policy", 300.0)

    def _start_valkey(self) -> str:
        password = secrets.token_hex(16)
        arguments = ["--folder", str((self._folder / "valkey").resolve())]
        env = {PASSWORD_VARIABLE: password}
        _, url = self._processes.start_server("valkey", ["services.local.valkey", *arguments], env=env)
        return f"redis://:{password}@{url.removeprefix('http://')}/0"

    def _start_engine(self) -> str:
        module = ["services.local.engine", "--slots", str(_JUDGE_SLOTS), "--threads", str(self._settings.judge_threads)]
        return self._processes.start_server("engine", module, ready="/health")[1]

    def _start_reward(self, redis: str, judge: str, model: str) -> str:
        env = {
            "REGRADE_REWARD_PORT": str(self._settings.reward_port),
            "REGRADE_REWARD_REDIS_URL": redis,
            "REGRADE_REWARD_JUDGE_URL": judge,
            "REGRADE_REWARD_JUDGE_MODEL": model,
            "REGRADE_REWARD_JUDGE_IN_FLIGHT": str(_JUDGE_SLOTS),
            "REGRADE_REWARD_SHADOW_IN_FLIGHT": "1",
            "REGRADE_REWARD_PLAN_WORDS": str(_JUDGE_WORDS),
            "REGRADE_REWARD_RATIONALE_WORDS": str(_JUDGE_WORDS),
            "REGRADE_REWARD_BOOTSTRAP_TASKS": json.dumps([self._settings.task]),
        }
        return self._processes.start_server("reward", ["services.reward"], ready="/readyz", env=env)[1]

    def _start_meta_reward(self, redis: str, judge: str, model: str, reward: str) -> str:
        settings = self._settings
        env = {
            "REGRADE_META_PORT": str(settings.meta_reward_port),
            "REGRADE_META_REDIS_URL": redis,
            "REGRADE_META_REWARD_URL": reward,
            "REGRADE_META_META_JUDGE_URL": judge,
            "REGRADE_META_META_JUDGE_MODEL": model,
            "REGRADE_META_META_JUDGE_IN_FLIGHT": "1",
            "REGRADE_META_META_JUDGE_MAX_TOKENS": "300",
            "REGRADE_META_TASKS": json.dumps([settings.task]),
            "REGRADE_META_EVERY_TRACES": str(settings.every_traces),
            "REGRADE_META_SAMPLES": "1",
            "REGRADE_META_GATE_ORIGINALS": str(settings.gate_originals),
            "REGRADE_META_GATE_ALPHA": str(_GATE_ALPHA),
            "REGRADE_META_GATE_BATCH": "4",
            "REGRADE_META_MAX_LLM_CRITERIA": "2",
        }
        return self._processes.start_server("meta_reward", ["services.meta_reward"], ready="/readyz", env=env)[1]

    def _start_python(self, name: str, module: str, arguments: list[str], env: Mapping[str, str]) -> None:
        nice = ["nice", "-n", str(_TRAINER_NICE)] if name == "trainer" else []
        self._processes.start(name, [*nice, sys.executable, "-m", module, *arguments], env)

    def _passive_threads(self) -> dict[str, str]:
        """OpenMP variables that make waiting threads sleep instead of spinning, because the judge shares the cores."""
        threads = str(self._settings.threads)
        return {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
