"""`python -m services.local`: the whole loop on this machine, with a live view and a report at the end."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from regrade.contracts import Stage
from services.kit.private_files import keep_files_private
from services.kit.settings import read_settings
from services.local.engine import MODEL_NAME
from services.local.observer import RunObserver
from services.local.processes import Processes, StackError
from services.local.report import Run, write_report
from services.local.settings import LocalSettings
from services.local.stack import Stack
from services.local.view import View

_POLL_S = 1.0
_LAST_CYCLE_S = 240.0
"""How long after the end of training a running cycle may take to finish."""


def main() -> None:
    """Run the demonstration. Exit status: 0 when training finished, 130 on Ctrl-C, 1 when a process failed."""
    settings = read_settings(LocalSettings)
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    keep_files_private()
    folder = settings.runs_dir / (settings.run or time.strftime("%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True)
    try:
        with Processes(folder) as processes:
            if settings.serve:
                serve(settings, folder, processes, console)
            report = run(settings, folder, processes, console)
    except KeyboardInterrupt:
        console.print("interrupted; all processes have ended")
        sys.exit(130)
    except (StackError, FileNotFoundError) as error:
        console.print(f"[bold red]failed:[/] {error}")
        sys.exit(1)
    console.print(f"[bold green]done.[/] Open the report: {report}")


def run(settings: LocalSettings, folder: Path, processes: Processes, console: Console) -> Path:
    """Start all processes, follow the training run to its end, write the report; returns its path."""
    stack = Stack(settings, folder, processes)
    policy = settings.runs_dir / "policy" / MODEL_NAME
    if not policy.is_dir():
        console.print("converting the model file into the policy (once)")
        stack.convert_policy(policy)
    addresses = stack.start(console.print)
    log = stack.start_trainer(addresses, policy, folder.name)
    status = f"training {MODEL_NAME}; logs are in {folder}; the reward service listens on {addresses.reward}"
    console.print(status, soft_wrap=True)
    observer = RunObserver(settings.task, addresses.meta_reward, log)
    try:
        with View(console, settings.steps, settings.every_traces) as view:
            _follow(processes, observer, view)
        return _report(settings, folder, observer)
    except KeyboardInterrupt:
        if observer.snapshot().steps:
            console.print(f"interrupted; the report so far: {_report(settings, folder, observer)}")
        raise
    finally:
        observer.close()


def serve(settings: LocalSettings, folder: Path, processes: Processes, console: Console) -> NoReturn:
    """Start everything but a trainer, and serve until Ctrl-C."""
    addresses = Stack(settings, folder, processes).start(console.print)
    console.print(f"[bold green]ready:[/] {addresses.reward}/docs and {addresses.meta_reward}/docs; Ctrl-C ends it")
    while True:
        processes.check()
        time.sleep(_POLL_S)


def _follow(processes: Processes, observer: RunObserver, view: View) -> None:
    """Update the view until the trainer has ended and no cycle is running, or `_LAST_CYCLE_S` later."""
    ended_at: float | None = None
    while True:
        snapshot = observer.snapshot()
        view.update(snapshot)
        if processes.check(may_end="trainer"):
            ended_at = ended_at or time.monotonic()
            if snapshot.status.stage is Stage.IDLE or time.monotonic() - ended_at > _LAST_CYCLE_S:
                return
        time.sleep(_POLL_S)


def _report(settings: LocalSettings, folder: Path, observer: RunObserver) -> Path:
    snapshot = observer.snapshot()
    changes = [event for event in snapshot.lineage if event.version is not None and event.previous]
    return write_report(
        Run(
            name=folder.name,
            task=settings.task,
            judge_model=settings.judge_model or MODEL_NAME,
            steps=snapshot.steps,
            cycles=observer.cycles(),
            lineage=snapshot.lineage,
            diffs=[observer.diff(event.previous, event.digest) for event in changes if event.previous],
        ),
        folder,
    )


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
