"""A virtual environment for each peer, made on demand and again when its pins change."""

import hashlib
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
_INSTALL_S = 900.0


class NotInstallable(Exception):
    """The peer cannot be had here; the message says why."""


def peers() -> list[str]:
    """The peers' names."""
    return sorted(path.stem for path in PEERS.glob("*.txt"))


def interpreter(peer: str, folder: Path, pinned: Path = PEERS) -> Path:
    """The Python of the peer's environment under `folder`, installing it first where needed. Raises `NotInstallable`.

    What it holds stands in `<peer>.txt` in the folder `pinned`.

    `--no-deps` with a complete list of pins: what is measured is the same everywhere, and no resolver brings torch.
    """
    pins = pinned / f"{peer}.txt"
    home = folder / peer
    stamp = home / ".installed"
    python = home / "bin" / "python"
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(home)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(pins)])
    stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise NotInstallable(f"not installed within {_INSTALL_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.lower().startswith("error")]
        raise NotInstallable(said[-1] if said else f"pip ended with status {error.returncode}") from error


def version(peer: str) -> str:
    """The pinned release of the peer itself, as `name version`."""
    name = "openpipe-art" if peer == "ruler" else peer
    for line in (PEERS / f"{peer}.txt").read_text().splitlines():
        found, _, release = line.partition("==")
        if found.lower() == name:
            return f"{found} {release}"
    raise LookupError(f"{peer}.txt does not pin {name}")
