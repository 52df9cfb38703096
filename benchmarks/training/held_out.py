"""Evaluates the trained policies on prompts that no run was trained on, with the trainer's own evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regrade.tasks import load_pack
from services.local.engine import MODEL_NAME
from services.local.processes import Processes
from services.trainer.data.corpora import SAMPLES, DataSettings
from services.trainer.data.mapping import Columns
from services.trainer.evaluate.__main__ import evaluate
from services.trainer.evaluate.settings import EvaluateSettings
from services.trainer.settings import TrainerSettings, with_files

_COMPARISON = "comparison.json"
_TOURNAMENT_PROMPTS = 16
"""A tournament has one judge call per prompt and ordered pair of policies."""


def evaluate_held_out(task: str, runs: Sequence[dict[str, Any]], policy: Path, out: Path, count: int) -> dict[str, Any]:
    """Metrics by entrant; for the essay task, which has no exact metric, also Elo ratings by the small judge."""
    own = [run for run in runs if run["task"] == task]
    kind, _ = with_files(TrainerSettings, ["--config", own[0]["config"]])
    config = kind(model=str(policy), output_dir=out)
    entrants = {"untrained": str(policy)} | {f"{run['arm']}-{run['seed']}": run["final"] for run in own}
    folder = out / f"held-out-{task}"
    settings: dict[str, Any] = {
        "task": task, "data": _held_out_data(task, config, out, count), "count": count, "entrants": entrants,
        "out": folder, "max_completion_tokens": config.max_completion_tokens, "batch": 16, "use_cpu": True,
    }  # fmt: skip
    if not (folder / _COMPARISON).is_file():
        evaluate(EvaluateSettings.model_validate(settings))
    comparison = _read(folder)
    summary = {"prompts": comparison["prompts"], "figures": comparison["figures"]}
    return summary | {"elo": _elo(settings, entrants, out)} if task == "essay_writing" else summary


def _held_out_data(task: str, config: TrainerSettings, out: Path, count: int) -> DataSettings:
    """The examples after those of the training; for the pack's samples, the prompts of its trusted originals."""
    if config.data.source != SAMPLES:
        return config.data.model_copy(update={"skip": config.data.skip + config.data.limit, "limit": count})
    path = out / f"{task}-originals.jsonl"
    lines = [json.dumps({"prompt": original.prompt}) for original in load_pack(task).originals]
    path.write_text("\n".join(lines), encoding="utf-8")
    return DataSettings(source=str(path), columns=Columns(prompt="prompt"), limit=count)


def _elo(settings: dict[str, Any], entrants: dict[str, str], out: Path) -> list[dict[str, Any]]:
    """The ratings of a tournament of the same completions, on fewer prompts."""
    folder = out / f"games-{settings['task']}"
    if not (folder / _COMPARISON).is_file():
        completions = {name: str(settings["out"] / f"{name}.jsonl") for name in entrants}
        with Processes(out) as processes:
            _, engine = processes.start_server("engine", ["services.local.engine"], ready="/health")
            tournament = {
                "entrants": completions, "judge_url": engine, "judge_model": MODEL_NAME, "count": _TOURNAMENT_PROMPTS
            }  # fmt: skip
            evaluate(EvaluateSettings.model_validate(settings | tournament | {"out": folder}))
    return list(_read(folder)["ratings"]["entrants"])


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / _COMPARISON).read_text(encoding="utf-8")))
