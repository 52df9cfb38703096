"""`make serve` and `make demo` as a user starts them: names, ports, tasks, and why something failed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from services.local.__main__ import META_REWARD_PORT, REWARD_PORT, choose_ports
from services.local.logs import last_problem
from services.local.processes import StackError
from services.local.settings import LocalSettings
from services.local.valkey import free_port
from tests.support.builders import ESSAY, PROMPT
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def _command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "services.local", "--serve", "true", "--runs-dir", str(folder), *options]


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, str]]:
    """`python -m services.local --serve` until the end of the block, which must end it well; both services' URLs."""
    ports = free_port(), free_port()
    numbers = ["--reward-port", str(ports[0]), "--meta-reward-port", str(ports[1])]
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(_command(folder, *numbers, *options), cwd=ROOT, stdout=output, stderr=output)
        try:
            wait_until(
                lambda: process.poll() is not None or "ready" in (folder / "output.txt").read_text(), "it to be ready"
            )
            assert process.poll() is None, (folder / "output.txt").read_text()
            yield tuple(f"http://127.0.0.1:{port}" for port in ports)  # type: ignore[misc]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60.0) == 0
    assert "the data is kept in" in (folder / "output.txt").read_text()


def failing(folder: Path, *options: str, **env: str) -> str:
    done = subprocess.run(
        _command(folder, *options), cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | env
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_data_is_kept_by_name(tmp_path: Path, fake_engine: FakeEngine) -> None:
    options = ["--judge-url", fake_engine.url, "--task", "summarization"]
    body = {"task": "summarization", "run": "r", "step": 1, "items": [{"prompt": PROMPT, "completion": ESSAY}]}
    with serving(tmp_path, *options) as (reward, meta):
        httpx.post(f"{reward}/score", json=body, timeout=60.0).raise_for_status()
        text = (tmp_path / "output.txt").read_text()
        for words in (f"{meta}/console", f"{reward}/docs", f"{meta}/docs", "source .venv/bin/activate"):
            assert words in text
        assert f"export REGRADE_URL={reward} REGRADE_META_URL={meta}" in text
        taken = failing(tmp_path, "--judge-url", fake_engine.url)
        assert "is in use" in taken
    with serving(tmp_path, *options) as (_, meta):
        assert len(httpx.get(f"{meta}/traces/summarization").json()["traces"]) == 1
        assert [event["version"] for event in httpx.get(f"{meta}/lineage/summarization").json()] == [1]
    with serving(tmp_path, *options, "--run", "other") as (_, meta):
        assert httpx.get(f"{meta}/traces/summarization").json()["traces"] == []
    with serving(tmp_path, "--judge-url", fake_engine.url) as (reward, meta):
        assert httpx.get(f"{reward}/rubrics/essay_writing").json()["version"] == 1
        assert len(httpx.get(f"{meta}/traces/summarization").json()["traces"]) == 1, "another task, the same data"


@pytest.mark.slow
def test_a_busy_port_and_an_unknown_task_are_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        busy = failing(tmp_path, "--reward-port", str(port))
        assert f"port {port} is in use by another program" in busy
        assert "make serve REWARD_PORT=8710" in busy
        other = failing(tmp_path, "--reward-port", str(free_port()), "--meta-reward-port", str(port))
        assert f"port {port} is in use" in other
    free = ["--reward-port", str(free_port()), "--meta-reward-port", str(free_port())]
    unknown = failing(tmp_path, "--task", "no_such_task", *free)
    assert "no task pack 'no_such_task'; available: essay_writing" in unknown
    assert "REGRADE_TASKS_DIR" in unknown
    assert not (tmp_path / "serve").exists()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "x" * 65])
def test_a_run_has_a_folder_of_its_own(name: str) -> None:
    with pytest.raises(ValidationError, match="run"):
        LocalSettings(run=name)
    assert [LocalSettings(run=name).run for name in ("", "mine", ".x", "..x", "a")] == ["", "mine", ".x", "..x", "a"]


@pytest.mark.slow
def test_the_reason_that_a_service_does_not_start_is_printed(tmp_path: Path, fake_engine: FakeEngine) -> None:
    ports = ["--reward-port", str(free_port()), "--meta-reward-port", str(free_port())]
    options = ["--judge-url", fake_engine.url, *ports]
    reason = failing(tmp_path, *options, REGRADE_META_NO_SUCH_SETTING="1")
    assert "meta_reward ended with status 2; see " in reason
    assert "REGRADE_META_NO_SUCH_SETTING is not a setting" in reason


@pytest.mark.xdist_group("engine")  # with the README's commands, which serve on these ports
def test_a_demonstration_has_fixed_ports_where_they_are_free() -> None:
    try:
        with socket.create_server(("127.0.0.1", META_REWARD_PORT)), socket.create_server(("127.0.0.1", REWARD_PORT)):
            assert choose_ports(LocalSettings()) == {"reward_port": 0, "meta_reward_port": 0}
            with pytest.raises(StackError, match=f"port {REWARD_PORT} is in use"):
                choose_ports(LocalSettings(serve=True))
    except OSError:
        pytest.skip("another program has the ports")
    chosen = choose_ports(LocalSettings(reward_port=free_port()))
    assert chosen["reward_port"] not in (0, REWARD_PORT)
    assert chosen["meta_reward_port"] in (0, META_REWARD_PORT)


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("", ""),
        ("cannot listen on port 1: in use\n", "cannot listen on port 1: in use"),
        ('{"level": "INFO", "message": "listening"}\n{"level": "ERROR", "message": "full"}\n', "full"),
        (
            '{"level": "ERROR", "message": "Traceback (most recent call last):\\n  File \\"a\\"\\nx.E: no pack"}\n'
            '{"level": "WARNING", "message": "waiting", "error": "refused", "exc_info": "Traceback (\\n  a\\nE: b"}\n',
            "x.E: no pack\nwaiting\nE: b\nrefused",
        ),
        ("Traceback (most recent call last):\n  File x\n    y\nValueError: z\n", "ValueError: z"),
        ("".join(f"line {n}\n" for n in range(9)), "line 4\nline 5\nline 6\nline 7\nline 8"),
        ("same\nsame\n", "same"),
        ('[1]\n"x"\n', '[1]\n"x"'),
    ],
)
def test_the_last_problem_of_a_log(tmp_path: Path, log: str, problem: str) -> None:
    path = tmp_path / "a.log"
    path.write_text(f"an older run\n{log}")
    assert last_problem(path, len("an older run\n")) == problem
    assert last_problem(tmp_path / "none") == ""
