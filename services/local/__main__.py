"""`python -m services.local`: the whole loop on this machine, with a live view and a report at the end."""

import fcntl
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from regrade.contracts import Stage
from regrade.tasks import BrokenTaskError, UnknownTaskError, load_pack
from services.kit.private_files import keep_files_private
from services.kit.settings import read_settings
from services.local.engine import MODEL_NAME
from services.local.observer import RunObserver
from services.local.processes import Processes, StackError
from services.local.report import Run, write_report
from services.local.settings import LocalSettings
from services.local.stack import Addresses, Stack
from services.local.view import View

REWARD_PORT = 8700
META_REWARD_PORT = 8701
_SERVE_RUN = "serve"
_POLL_S = 1.0
_LAST_CYCLE_S = 240.0
"""How long after the end of training a running cycle may take to finish."""


def main() -> None:
    """Run the demonstration, or serve.

    Exit status: 0 when training finished or serving was ended by Ctrl-C, 130 on Ctrl-C in a demonstration, 1 when
    something failed, with the reason.
    """
    settings = read_settings(LocalSettings)
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    keep_files_private()
    folder = settings.runs_dir / (settings.run or (_SERVE_RUN if settings.serve else time.strftime("%Y%m%d-%H%M%S")))
    try:
        load_pack(settings.task)
        settings = settings.model_copy(update=choose_ports(settings))
        with _locked(folder), Processes(folder) as processes:
            if settings.serve:
                serve(settings, folder, processes, console)
            report = run(settings, folder, processes, console)
    except KeyboardInterrupt:
        console.print(
            f"ended; the data is kept in {folder}" if settings.serve else "interrupted; all processes have ended"
        )
        sys.exit(0 if settings.serve else 130)
    except (StackError, OSError, UnknownTaskError, BrokenTaskError) as error:
        console.print(Text.assemble(("failed:", "bold red"), " ", str(error)), soft_wrap=True)
        sys.exit(1)
    console.print(f"[bold green]done.[/] Open the report: {report}")


def choose_ports(settings: LocalSettings) -> dict[str, int]:
    """The ports of both services, by setting; 0 where a demonstration may take any.

    Raises `StackError` if a port that was asked for, or that serving needs, is in use.
    """
    ports = {}
    for name, default in (("reward_port", REWARD_PORT), ("meta_reward_port", META_REWARD_PORT)):
        wanted: int = getattr(settings, name)
        port = wanted or default
        if _is_free(port):
            ports[name] = port
        elif wanted or settings.serve:
            raise StackError(
                f"port {port} is in use by another program. End that program, or choose other ports: "
                "make serve REWARD_PORT=8710 META_PORT=8711"
            )
        else:
            ports[name] = 0
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, created if missing: two stacks on one folder would share its database."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StackError(f"{folder} is in use by another run: end that one, or choose another --run") from None
        yield


def run(settings: LocalSettings, folder: Path, processes: Processes, console: Console) -> Path:
    """Start all processes, follow the training run to its end, write the report; returns its path."""
    stack = Stack(settings, folder, processes)
    policy = settings.runs_dir / "policy" / MODEL_NAME
    if not policy.is_dir():
        console.print("converting the model file into the policy (once)")
        stack.convert_policy(policy)
    addresses = stack.start(console.print)
    _print_addresses(console, addresses, folder)
    log = stack.start_trainer(addresses, policy, folder.name)
    console.print(f"training {MODEL_NAME} on {settings.task}")
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
    _print_addresses(console, addresses, folder)
    console.print(f"[bold green]ready[/] for task {settings.task}; Ctrl-C ends it, and the same command continues it")
    while True:
        processes.check()
        time.sleep(_POLL_S)


def _print_addresses(console: Console, addresses: Addresses, folder: Path) -> None:
    """Where to reach what runs, and how to reach it from another terminal."""
    reward, meta_reward = addresses.reward, addresses.meta_reward
    rows = {
        "reward service": f"{reward}  (fields: {reward}/docs)",
        "meta-reward service": f"{meta_reward}  (fields: {meta_reward}/docs)",
        "console": f"{meta_reward}/console",
        "data and logs": str(folder),
        "another terminal": "source .venv/bin/activate",
    }
    if not (reward.endswith(f":{REWARD_PORT}") and meta_reward.endswith(f":{META_REWARD_PORT}")):
        rows["other ports"] = f"export REGRADE_URL={reward} REGRADE_META_URL={meta_reward}"
    for name, text in rows.items():
        console.print(Text.assemble((f"{name:<21}", "bold"), text), soft_wrap=True)


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
