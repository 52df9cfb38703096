"""The README's commands, in order, as a new user runs them: in plain shells, in a fresh copy of what git tracks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.local.__main__ import META_REWARD_PORT, REWARD_PORT
from services.local.valkey import free_port
from tests.support.tiny_policy import make_policy
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SERVE = "make serve"
MARK = "end-of-block"
HEAVY = ("make demo", "make test")
"""Run with --dry-run: the one takes ten minutes, the other would run this test again."""


def blocks() -> list[tuple[str, str]]:
    """Language and text of each fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked and new files, with the environment of this checkout, as `make` would install it."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".installed":
            (folder / ".venv" / path.name).symlink_to(path)
    (folder / ".venv" / ".installed").touch()  # newer than pyproject.toml, so that `make` downloads nothing
    return folder


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    """The README's ports if they are free, else others, by which the commands' are replaced."""
    import socket

    try:
        with socket.create_server(("127.0.0.1", REWARD_PORT)), socket.create_server(("127.0.0.1", META_REWARD_PORT)):
            return REWARD_PORT, META_REWARD_PORT
    except OSError:
        return free_port(), free_port()


def _environment(checkout: Path, ports: tuple[int, int]) -> dict[str, str]:
    """What `env -i` leaves a shell: PATH without this environment, and HOME.

    Besides, the code is that of the copy, where the environment's is that of the checkout, and other ports are named
    as `make serve` tells a user to.
    """
    path = [part for part in os.environ["PATH"].split(os.pathsep) if not (Path(part) / "regrade").exists()]
    environment = {"PATH": os.pathsep.join(path), "HOME": str(checkout / "home"), "PYTHONPATH": str(checkout)}
    if ports != (REWARD_PORT, META_REWARD_PORT):
        environment["REGRADE_URL"], environment["REGRADE_META_URL"] = (f"http://127.0.0.1:{port}" for port in ports)
    return environment


@contextmanager
def _in_background(command: str, checkout: Path, environment: dict[str, str]) -> Iterator[None]:
    """A command in a terminal of its own, from its `ready` until Ctrl-C."""
    output = checkout / "serve.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            ["/bin/bash", "-c", command], cwd=checkout, env=environment, stdout=file, stderr=file, process_group=0
        )
    try:
        wait_until(lambda: process.poll() is not None or "ready" in output.read_text(), "the services", timeout_s=240.0)
        assert process.poll() is None, output.read_text()
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60.0)
    assert "ended; the data is kept in runs/serve" in output.read_text()


def _script(language: str, text: str, substitutions: dict[str, str]) -> str:
    for before, after in substitutions.items():
        text = text.replace(before, after)
    if language == "python":
        return f"python - <<'END_OF_PYTHON'\n{text}END_OF_PYTHON\n"
    return "".join(
        f"make --dry-run {line.removeprefix('make ')}\n" if line.startswith(HEAVY) else f"{line}\n"
        for line in text.splitlines()
    )


def _run(script: str, checkout: Path, environment: dict[str, str]) -> str:
    """What the commands print; the first that fails, fails the test."""
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail"], input=script, cwd=checkout, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.engine
def test_every_command_of_the_readme(checkout: Path, ports: tuple[int, int], tmp_path: Path) -> None:
    """Literally, but for what this machine lacks: the hub's model is a tiny one, trained for a step on the CPU."""
    policy = make_policy(tmp_path / "policy")
    substitutions = {
        '"Qwen/Qwen2.5-1.5B-Instruct"': repr(str(policy)),
        'GRPOConfig(output_dir="out")': 'GRPOConfig(output_dir="out", use_cpu=True, bf16=False, max_steps=1, '
        "per_device_train_batch_size=2, num_generations=2, max_completion_length=8, report_to=[])",
        str(REWARD_PORT): str(ports[0]),
        str(META_REWARD_PORT): str(ports[1]),
    }
    listed = blocks()
    assert {language for language, _ in listed} == {"bash", "python"}
    text = "".join(block for _, block in listed)
    assert all(before in text for before in substitutions), "a substitution for a command that is not there"
    environment = _environment(checkout, ports)
    start = next(n for n, (_, block) in enumerate(listed) if block.startswith(SERVE))
    first_terminal = "".join(_script(*block, {}) for block in listed[:start])
    assert "services.local" in _run(first_terminal, checkout, environment)
    command = listed[start][1].replace(SERVE, f"{SERVE} REWARD_PORT={ports[0]} META_PORT={ports[1]}")
    if ports == (REWARD_PORT, META_REWARD_PORT):
        command = listed[start][1]
    with _in_background(command, checkout, environment):
        script = f"echo {MARK}\n".join(_script(*block, substitutions) for block in listed[start + 1 :])
        curl, command, python, trainer = _run(script, checkout, environment).split(f"{MARK}\n")
    rewards = [result["reward"] for result in json.loads(curl)["results"]]
    assert len(rewards) == 2
    assert all(0.0 <= reward <= 1.0 for reward in rewards)
    for words in ("run-1", '"version": 1', "anchor AUC of the judge alone"):
        assert words in command
    assert re.match(r"0\.\d+ 1 \(", python)
    assert "'regrade/rubric_version': '1'" in trainer


@pytest.mark.parametrize("page", sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")}))
def test_what_is_installed_by_name_exists(page: Path) -> None:
    """The package is not on PyPI: pages install it from a path."""
    for command in re.findall(r"pip install ([^`\n]*)", page.read_text()):
        assert "regrade" not in re.split(r"[\s\[]", command), f"{page}: {command}"
