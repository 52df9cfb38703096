"""Child processes: start, checks, end in order, none left behind."""

import _thread
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.local.processes import Processes, StackError

pytestmark = pytest.mark.slow

WAITS = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _is_up(folder: Path, name: str) -> bool:
    return "up" in (folder / f"{name}.log").read_text()


def test_everything_ends_with_the_context(tmp_path: Path) -> None:
    with Processes(tmp_path, grace_s=0.5) as processes:
        for name, code in (("one", WAITS), ("two", STUBBORN)):
            processes.start(name, _python(f"import os; print(os.getpid(), flush=True); {code}"), {"SOME": "value"})
            processes.wait_for(name, lambda name=name: _is_up(tmp_path, name), 90.0)  # type: ignore[misc]
        pids = [int((tmp_path / f"{name}.log").read_text().split()[0]) for name in ("one", "two")]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_second_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """It comes while the last process is ending: all processes are ended nevertheless."""
    with Processes(tmp_path, grace_s=1.0) as processes:
        for name, code in (("one", WAITS), ("two", STUBBORN)):
            processes.start(name, _python(f"import os; print(os.getpid(), flush=True); {code}"))
            processes.wait_for(name, lambda name=name: _is_up(tmp_path, name), 90.0)  # type: ignore[misc]
        pids = [int((tmp_path / f"{name}.log").read_text().split()[0]) for name in ("one", "two")]
        threading.Timer(0.3, _thread.interrupt_main).start()
        processes.stop()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_signal_during_a_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's exception is raised once the process is registered, not while it is being created."""
    pids: list[int] = []

    def interrupted(*args: object, **options: object) -> "subprocess.Popen[bytes]":
        process = popen(*args, **options)  # type: ignore[call-overload]
        pids.append(process.pid)
        signal.raise_signal(signal.SIGINT)
        return process  # type: ignore[no-any-return]

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path, grace_s=1.0) as processes:
        processes.start("one", _python(WAITS))
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_dead_process_is_named_with_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("broken", _python("import sys; print('no such model'); sys.exit(3)"))
        with pytest.raises(StackError, match=r"broken ended with status 3; see .*broken\.log"):
            processes.wait_for("broken", lambda: False, 90.0)
    assert "no such model" in (tmp_path / "broken.log").read_text()


def test_a_killed_process_is_named_with_the_signal(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        pid = processes.start("killed", _python(f"print('a warning of an hour ago'); {WAITS}"))
        processes.wait_for("killed", lambda: _is_up(tmp_path, "killed"), 90.0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StackError, match=r"killed was ended by SIGKILL, .*memory; see .*killed\.log$"):
            processes.wait_for("killed", lambda: False, 90.0)


def test_a_process_that_is_never_ready(tmp_path: Path) -> None:
    with Processes(tmp_path, grace_s=0.5) as processes:
        processes.start("slow", _python(WAITS))
        with pytest.raises(StackError, match="slow was not ready"):
            processes.wait_for("slow", lambda: False, 0.3)


def test_a_process_may_exit_with_status_0(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("job", _python("print('done')"))
        processes.wait_for_end("job", 90.0)
        processes.check()
