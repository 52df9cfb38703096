"""What the trained policies do on prompts that no run was trained on, by the trainer's own evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.parts import start
from services.local.engine import MODEL_NAME
from services.local.processes import Processes
from services.trainer.data.corpora import DataSettings
from services.trainer.evaluate.__main__ import evaluate
from services.trainer.evaluate.settings import EvaluateSettings

_TOLD = "comparison.json"
_GAMES_OVER = 16
"""Prompts of a tournament: a question for each ordered pair of policies."""


def measured(task: str, runs: Sequence[dict[str, Any]], policy: Path, out: Path, count: int) -> dict[str, Any]:
    """Figures by entrant; for a task without an exact measure also Elo, by the judge that is too small for it."""
    own = [run for run in runs if run["task"] == task]
    config = yaml.safe_load(Path(own[0]["config"]).read_text(encoding="utf-8"))
    trained_on = config["steps"] if "limit" not in config["data"] else config["data"]["limit"]
    data = DataSettings.model_validate(
        config["data"] | {"skip": trained_on * config["groups_per_step"], "limit": count}
    )
    entrants = {"untrained": str(policy)} | {f"{run['arm']}-{run['seed']}": run["final"] for run in own}
    settings = {
        "task": task, "data": data, "count": count, "entrants": entrants, "out": out / f"held-out-{task}",
        "max_completion_tokens": config["max_completion_tokens"], "batch": 16, "use_cpu": True,
    }  # fmt: skip
    if not (settings["out"] / _TOLD).is_file():
        evaluate(EvaluateSettings.model_validate(settings))
    found = _read(settings["out"])
    told = {"prompts": found["prompts"], "figures": found["figures"]}
    return told | {"elo": _elo(settings, entrants, out)} if task == "essay_writing" else told


def _elo(settings: dict[str, Any], entrants: dict[str, str], out: Path) -> list[dict[str, Any]]:
    """A tournament of the same completions on fewer prompts."""
    folder = out / f"games-{settings['task']}"
    if not (folder / _TOLD).is_file():
        written = {name: str(settings["out"] / f"{name}.jsonl") for name in entrants}
        with Processes(out) as processes:
            _, engine = start(processes, out, "engine", ["services.local.engine"], "/health")
            game = {"entrants": written, "judge_url": engine, "judge_model": MODEL_NAME, "count": _GAMES_OVER}
            evaluate(EvaluateSettings.model_validate(settings | game | {"out": folder}))
    return list(_read(folder)["ratings"]["entrants"])


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / _TOLD).read_text(encoding="utf-8")))
