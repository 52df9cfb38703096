"""One training run beside a whole local stack of its own."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from regrade import BlockingRewardClient
from regrade.contracts import EventKind, LineageEvent
from services.local.engine import MODEL_NAME
from services.local.processes import Processes
from services.local.settings import LocalSettings
from services.local.stack import Addresses, Stack
from services.trainer.records import LOG_NAME, read_log

ARMS = ("fixed", "regrade")
_EVERY_TRACES = 36
_THREADS = 2
_LOOK_EVERY_S = 1.0
_THREADING = {
    "OMP_NUM_THREADS": str(_THREADS),
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
}


class Spec(NamedTuple):
    """What is run: a task under an arm, with a seed."""

    task: str
    arm: str
    seed: int
    steps: int
    config: Path

    @property
    def name(self) -> str:
        """Of the run, and of its folder."""
        return f"{self.task}-{self.arm}-{self.seed}"


def policy_of(out: Path) -> Path:
    """The policy to start from, converted out of the judge's file where that has not been done."""
    folder = out / "policy" / MODEL_NAME
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Processes(out) as processes:
            Stack(LocalSettings(), out, processes).convert_policy(folder)
    return folder


def train(spec: Spec, policy: Path, out: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """The run's figures; those of a run that has ended already are read."""
    folder = out / f"{spec.name}-{spec.steps}"
    kept = folder / "run.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    folder.mkdir(exist_ok=True)
    settings = LocalSettings(task=spec.task, steps=spec.steps, seed=spec.seed, every_traces=_EVERY_TRACES)
    with Processes(folder) as processes:
        addresses = Stack(settings, folder, processes).start(lambda _: None)
        if spec.arm == "fixed":
            deed = {"by": "benchmarks.training", "reason": "the arm of the fixed rubric"}
            httpx.post(f"{addresses.meta_reward}/cycles/{spec.task}/pause", json=deed).raise_for_status()
        _start(spec, policy, folder, addresses, processes)
        _follow(spec, folder, processes, tell)
        found = _figures(spec, folder, addresses)
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _start(spec: Spec, policy: Path, folder: Path, addresses: Addresses, processes: Processes) -> None:
    options: Mapping[str, object] = {
        "config": spec.config, "model": policy, "run": spec.name, "output-dir": folder / "training",
        "reward-url": addresses.reward, "steps": spec.steps, "seed": spec.seed, "save-every": spec.steps,
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = ["nice", "-n", "10", sys.executable, "-m", "services.trainer.train", *arguments]
    processes.start("trainer", command, _THREADING)


def _follow(spec: Spec, folder: Path, processes: Processes, tell: Callable[[str], None]) -> None:
    told, began = 0, time.monotonic()
    while not processes.check(may_end="trainer"):
        rows = read_log(folder / "training" / LOG_NAME)
        if len(rows) > told:
            told, row = len(rows), rows[-1]
            left = (time.monotonic() - began) / told * (spec.steps - told)
            tell(
                f"  step {told}/{spec.steps}  reward {row['reward']:.3f}  rubric v{row['regrade/rubric_version']:g}"
                f"  {row['completion_tokens']:.0f} tokens  {left:.0f} s left"
            )
        time.sleep(_LOOK_EVERY_S)


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
