"""A peer's client in the peer's own environment, one process a rank."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.virtual_environments import interpreter

ROOT = Path(__file__).parents[3]
PINS = Path(__file__).parent / "pins"
ENVIRONMENTS = ROOT / ".cache" / "trainers"
OWN = "trl"
"""Installed in the project's own environment."""
_ANSWER_S = 180.0
_MODULE = str.maketrans("-.", "__")
PEERS = (OWN, *sorted(path.stem for path in PINS.glob("*.txt")))


class Peer:
    """Scores samples as the peer's trainer would."""

    def __init__(self, name: str, *, url: str, task: str, run: str, rank: int = 0, options: str = "") -> None:
        python = sys.executable if name == OWN else str(interpreter(name, ENVIRONMENTS, PINS))
        variables = {"REGRADE_URL": url, "REGRADE_TASK": task, "REGRADE_RUN": run, "PEER_RANK": str(rank)}
        variables["PEER_OPTIONS"] = options
        quiet = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        quiet["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"  # ART's import would fetch it
        if name != OWN:  # TRL's launcher would wait for the other ranks
            variables["RANK"] = str(rank)
        ENVIRONMENTS.parent.mkdir(exist_ok=True)  # absent in a fresh clone
        self._log = (ENVIRONMENTS.parent / f"{name}-{rank}.log").open("wb")
        self._process = subprocess.Popen(
            [python, "-m", f"tests.adapters.peers.clients.{name.translate(_MODULE)}"],
            cwd=ROOT,
            env={**os.environ, **variables, **quiet},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._pool = ThreadPoolExecutor(1)
        try:
            self.version = str(self._answer()["version"])
        except BaseException:
            self.close()
            raise

    def score(self, samples: Sequence[dict[str, str]], *, step: int = 1) -> list[Any]:
        """One reward a sample: a number, "nan" or None. Raises `RuntimeError` where the peer raised."""
        return self.start(samples, step=step).result(_ANSWER_S)

    def advantages(self, samples: Sequence[dict[str, str]], *, step: int = 1) -> list[Any]:
        """What the peer's own code makes of the rewards of a group; None for a sample that it leaves out."""
        return self._pool.submit(self._values, "advantages", samples, step).result(_ANSWER_S)

    def start(self, samples: Sequence[dict[str, str]], *, step: int = 1) -> "Future[list[Any]]":
        """`score` as a future."""
        return self._pool.submit(self._values, "rewards", samples, step)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._pool.shutdown()
        self._log.close()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _values(self, what: str, samples: Sequence[dict[str, str]], step: int) -> list[Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, "samples": list(samples), "step": step}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        values: list[Any] = answer["values"]
        return values

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client ended:\n{Path(self._log.name).read_text()[-3_000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer
