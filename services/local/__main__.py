"""`python -m services.local`: the whole loop on this machine, with a live view and a report at the end."""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from regrade.contracts import Stage
from services.kit.settings import read_settings
from services.local.engine import MODEL_NAME
from services.local.observer import Observer
from services.local.processes import Processes, StackError
from services.local.report import Run, write_report
from services.local.settings import LocalSettings
from services.local.stack import Stack
from services.local.view import View

_LOOK_EVERY_S = 1.0
_LAST_CYCLE_S = 240.0


def main() -> None:
    """Run the demonstration; ends with status 0 when training finished, 130 on Ctrl-C, 1 when a part failed."""
    settings = read_settings(LocalSettings)
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = _new_folder(settings)
    try:
        with Processes(folder) as processes:
            if settings.serve:
                serve(settings, folder, processes, console)
            report = run(settings, folder, processes, console)
    except KeyboardInterrupt:
        console.print("interrupted; everything has ended")
        sys.exit(130)
    except (StackError, FileNotFoundError) as error:
        console.print(f"[bold red]failed:[/] {error}")
        sys.exit(1)
    console.print(f"[bold green]done.[/] Open the report: {report}")


def run(settings: LocalSettings, folder: Path, processes: Processes, console: Console) -> Path:
    """Start everything, follow the training run to its end, write the report and answer its path."""
    stack = Stack(settings, folder, processes)
    policy = settings.runs_dir / "policy" / MODEL_NAME
    if not policy.is_dir():
        console.print("preparing the policy from the model file (once)")
        stack.convert_policy(policy)
    addresses = stack.start(lambda what: console.print(what))
    log = stack.start_trainer(addresses, policy, folder.name)
    where = f"training {MODEL_NAME}; logs are in {folder}; the reward service listens on {addresses.reward}"
    console.print(where, soft_wrap=True)
    observer = Observer(settings.task, addresses.meta_reward, addresses.reward, log)
    try:
        with View(console, settings.steps, settings.every_traces) as view:
            _follow(processes, observer, view)
        return _report(settings, folder, observer)
    except KeyboardInterrupt:
        if observer.look().steps:
            console.print(f"interrupted; the report so far: {_report(settings, folder, observer)}")
        raise
    finally:
        observer.close()


def serve(settings: LocalSettings, folder: Path, processes: Processes, console: Console) -> NoReturn:
    """Start everything but a trainer and stay until Ctrl-C."""
    addresses = Stack(settings, folder, processes).start(lambda what: console.print(what))
    console.print(f"[bold green]ready:[/] {addresses.reward}/docs and {addresses.meta_reward}/docs; Ctrl-C ends it")
    while True:
        processes.check()
        time.sleep(_LOOK_EVERY_S)


def _follow(processes: Processes, observer: Observer, view: View) -> None:
    """Show the run until the trainer has ended and a cycle under way has come to its end, or taken too long."""
    ended_at: float | None = None
    while True:
        snapshot = observer.look()
        view.show(snapshot)
        if processes.check(may_end="trainer"):
            ended_at = ended_at or time.monotonic()
            if snapshot.status.stage is Stage.IDLE or time.monotonic() - ended_at > _LAST_CYCLE_S:
                return
        time.sleep(_LOOK_EVERY_S)


def _report(settings: LocalSettings, folder: Path, observer: Observer) -> Path:
    """Write the report of the run as it stands; answers its path."""
    snapshot = observer.look()
    changes = [e for e in snapshot.lineage if e.version is not None and e.previous is not None]
    run = Run(
        name=folder.name,
        task=settings.task,
        judge_model=settings.judge_model or MODEL_NAME,
        steps=snapshot.steps,
        cycles=observer.cycles(),
        lineage=snapshot.lineage,
        diffs=[observer.diff(event.previous, event.digest) for event in changes if event.previous],
    )
    return write_report(run, folder)


def _new_folder(settings: LocalSettings) -> Path:
    folder = settings.runs_dir / (settings.run or time.strftime("%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True)
    return folder


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
