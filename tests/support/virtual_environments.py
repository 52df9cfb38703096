"""Virtual environments with pinned packages, created on demand and again when the pins change."""

import hashlib
import subprocess
import sys
from pathlib import Path

_INSTALL_TIMEOUT_S = 900.0


class NotInstallable(Exception):
    """The environment cannot be created here; the message says why."""


def interpreter(name: str, folder: Path, pins: Path) -> Path:
    """The Python of the environment `folder/name`, which holds the packages pinned in `pins/name.txt`.

    `--no-deps` with a complete list of pins: the environment is the same everywhere, and no resolver adds torch.
    Raises `NotInstallable`.
    """
    requirements = pins / f"{name}.txt"
    home = folder / name
    stamp = home / ".installed"
    python = home / "bin" / "python"
    fingerprint = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(home)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(requirements)])
    stamp.write_text(fingerprint)
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NotInstallable(f"not installed within {_INSTALL_TIMEOUT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        errors = [line for line in error.stderr.splitlines() if line.lower().startswith("error")]
        raise NotInstallable(errors[-1] if errors else f"pip ended with status {error.returncode}") from error
