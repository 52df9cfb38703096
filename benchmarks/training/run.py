"""One training run with a local stack of its own."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.common.output import write_json
from regrade import BlockingRewardClient
from regrade.contracts import EventKind, LineageEvent
from services.local.engine import MODEL_NAME
from services.local.processes import Processes
from services.local.settings import LocalSettings
from services.local.stack import Addresses, Stack
from services.trainer.records import LOG_NAME, read_log

ARMS = ("fixed", "regrade")
_EVERY_TRACES = 36
_POLL_S = 1.0
_THREADING = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}


class Spec(NamedTuple):
    """A run: a task under an arm, with a seed."""

    task: str
    arm: str
    seed: int
    steps: int
    config: Path

    @property
    def name(self) -> str:
        """Name of the run and its folder."""
        return f"{self.task}-{self.arm}-{self.seed}"


def starting_policy(out: Path) -> Path:
    """The untrained policy, converted from the judge's model file if that has not been done."""
    folder = out / "policy" / MODEL_NAME
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Processes(out) as processes:
            Stack(LocalSettings(), out, processes).convert_policy(folder)
    return folder


def train(spec: Spec, policy: Path, out: Path, report_progress: Callable[[str], None]) -> dict[str, Any]:
    """The figures of the run, from `run.json` if it is complete."""
    folder = out / f"{spec.name}-{spec.steps}"
    record = folder / "run.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    folder.mkdir(exist_ok=True)
    settings = LocalSettings(task=spec.task, steps=spec.steps, seed=spec.seed, every_traces=_EVERY_TRACES)
    with Processes(folder) as processes:
        addresses = Stack(settings, folder, processes).start(lambda _: None)
        if spec.arm == "fixed":
            body = {"by": "benchmarks.training", "reason": "the arm of the fixed rubric"}
            httpx.post(f"{addresses.meta_reward}/cycles/{spec.task}/pause", json=body).raise_for_status()
        _start_trainer(spec, policy, folder, addresses, processes)
        _follow(spec, folder, processes, report_progress)
        figures = _figures(spec, folder, addresses)
    write_json(record, figures)
    return figures


def _start_trainer(spec: Spec, policy: Path, folder: Path, addresses: Addresses, processes: Processes) -> None:
    options: Mapping[str, object] = {
        "config": spec.config, "model": policy, "run": spec.name, "output-dir": folder / "training",
        "reward-url": addresses.reward, "steps": spec.steps, "seed": spec.seed, "save-every": spec.steps,
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = ["nice", "-n", "10", sys.executable, "-m", "services.trainer.train", *arguments]
    processes.start("trainer", command, _THREADING)


def _follow(spec: Spec, folder: Path, processes: Processes, report_progress: Callable[[str], None]) -> None:
    done, began = 0, time.monotonic()
    while not processes.check(may_end="trainer"):
        steps = read_log(folder / "training" / LOG_NAME)
        if len(steps) > done:
            done, step = len(steps), steps[-1]
            remaining_s = (time.monotonic() - began) / done * (spec.steps - done)
            report_progress(
                f"  step {done}/{spec.steps}  reward {step['reward']:.3f}  rubric v{step['regrade/rubric_version']:g}"
                f"  {step['completion_tokens']:.0f} tokens  {remaining_s:.0f} s left"
            )
        time.sleep(_POLL_S)


def _figures(spec: Spec, folder: Path, addresses: Addresses) -> dict[str, Any]:
    with BlockingRewardClient(addresses.meta_reward) as client:
        lineage = client.call("GET", f"/lineage/{spec.task}", list[LineageEvent])
    events = [{"kind": e.kind.value, "version": e.version, "by": e.by, "reason": e.reason} for e in lineage]
    return {
        "task": spec.task,
        "arm": spec.arm,
        "seed": spec.seed,
        "config": str(spec.config),
        "final": str(folder / "training" / "final"),
        "rejected": sum(e.kind is EventKind.REJECTED for e in lineage),
        "versions": [e for e in events if e["version"] is not None],
        "rows": read_log(folder / "training" / LOG_NAME),
    }
