"""A benchmark that is ended by a signal ends its child processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

PROCESSES = {"valkey", "engine_stub", "services.reward"}


def _named(process: psutil.Process) -> set[str]:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:  # it has ended, such as a Valkey's fork for a snapshot
        return set()
    return {name for name in PROCESSES if name in command}


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["benchmarks.score", "--peers", "none"], signal.SIGTERM),
        (["benchmarks.score", "--peers", "none"], signal.SIGINT),
        (["benchmarks.soak"], signal.SIGTERM),
    ],
)
def test_nothing_is_left_behind(command: list[str], number: signal.Signals, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        benchmark = subprocess.Popen(
            [sys.executable, "-m", *command, "--out", str(tmp_path / "out")], stdout=log, stderr=log, process_group=0
        )
    family = psutil.Process(benchmark.pid)

    def is_running() -> bool:
        assert benchmark.poll() is None, (tmp_path / "log").read_text()
        return set().union(*map(_named, family.children(recursive=True))) == PROCESSES

    try:
        wait_until(is_running, "all processes to run")
        children = family.children(recursive=True)
        os.kill(benchmark.pid, number)
        assert benchmark.wait(120.0) == 128 + number
        _, alive = psutil.wait_procs(children, timeout=60.0)
        assert not alive
    finally:
        for process in (*family.children(recursive=True), family) if benchmark.poll() is None else ():
            process.kill()
