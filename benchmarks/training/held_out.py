"""What the trained policies do on prompts that no run was trained on, by the trainer's own evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.stack import start_process
from regrade.tasks import load_pack
from services.local.engine import MODEL_NAME
from services.local.processes import Processes
from services.trainer.data.corpora import SAMPLES, DataSettings
from services.trainer.data.mapping import Columns
from services.trainer.evaluate.__main__ import evaluate
from services.trainer.evaluate.settings import EvaluateSettings
from services.trainer.settings import TrainerSettings, with_files

_TOLD = "comparison.json"
_GAMES_OVER = 16
"""Prompts of a tournament: a question for each ordered pair of policies."""


def measured(task: str, runs: Sequence[dict[str, Any]], policy: Path, out: Path, count: int) -> dict[str, Any]:
    """Figures by entrant; for a task without an exact measure also Elo, by the judge that is too small for it."""
    own = [run for run in runs if run["task"] == task]
    kind, _ = with_files(TrainerSettings, ["--config", own[0]["config"]])
    config = kind(model=str(policy), output_dir=out)
    entrants = {"untrained": str(policy)} | {f"{run['arm']}-{run['seed']}": run["final"] for run in own}
    folder = out / f"held-out-{task}"
    settings: dict[str, Any] = {
        "task": task, "data": _unseen(task, config, out, count), "count": count, "entrants": entrants, "out": folder,
        "max_completion_tokens": config.max_completion_tokens, "batch": 16, "use_cpu": True,
    }  # fmt: skip
    if not (folder / _TOLD).is_file():
        evaluate(EvaluateSettings.model_validate(settings))
    found = _read(folder)
    told = {"prompts": found["prompts"], "figures": found["figures"]}
    return told | {"elo": _elo(settings, entrants, out)} if task == "essay_writing" else told


def _unseen(task: str, config: TrainerSettings, out: Path, count: int) -> DataSettings:
    """What comes behind the training's examples; of the pack's samples the prompts of its trusted originals."""
    if config.data.source != SAMPLES:
        return config.data.model_copy(update={"skip": config.data.skip + config.data.limit, "limit": count})
    path = out / f"{task}-originals.jsonl"
    lines = [json.dumps({"prompt": original.prompt}) for original in load_pack(task).originals]
    path.write_text("\n".join(lines), encoding="utf-8")
    return DataSettings(source=str(path), columns=Columns(prompt="prompt"), limit=count)


def _elo(settings: dict[str, Any], entrants: dict[str, str], out: Path) -> list[dict[str, Any]]:
    """A tournament of the same completions on fewer prompts."""
    folder = out / f"games-{settings['task']}"
    if not (folder / _TOLD).is_file():
        written = {name: str(settings["out"] / f"{name}.jsonl") for name in entrants}
        with Processes(out) as processes:
            _, engine = start_process(processes, out, "engine", ["services.local.engine"], "/health")
            game = {"entrants": written, "judge_url": engine, "judge_model": MODEL_NAME, "count": _GAMES_OVER}
            evaluate(EvaluateSettings.model_validate(settings | game | {"out": folder}))
    return list(_read(folder)["ratings"]["entrants"])


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / _TOLD).read_text(encoding="utf-8")))
