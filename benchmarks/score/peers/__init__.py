"""Judges of other projects, one module each, run in an environment of its own (`<name>.txt` pins its packages)."""

from pathlib import Path

PINS = Path(__file__).parent


def peers() -> list[str]:
    """The peers' names."""
    return sorted(path.stem for path in PINS.glob("*.txt"))


def version(peer: str) -> str:
    """The pinned release of the peer itself, as `name version`."""
    name = "openpipe-art" if peer == "ruler" else peer
    for line in (PINS / f"{peer}.txt").read_text().splitlines():
        package, _, release = line.partition("==")
        if package.lower() == name:
            return f"{package} {release}"
    raise LookupError(f"{peer}.txt does not pin {name}")
