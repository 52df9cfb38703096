"""The comparison of training runs: its figures, and completed runs that are not repeated."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training.results import document, draw, table
from benchmarks.training.run import Spec, train


def _run(arm: str, seed: int, task: str = "math_reasoning") -> dict[str, Any]:
    rows = [
        {
            "step": float(step), "started": 10.0 * step, "ended": 10.0 * step + 8.0, "reward": step / 10 + seed,
            "regrade/rubric_version": 1.0 + (arm == "regrade" and step > 3), "completion_tokens": 50.0 + step,
            "regrade/answer": 0.5,
        }
        for step in range(1, 7)
    ]  # fmt: skip
    return {
        "task": task, "arm": arm, "seed": seed, "config": "some.yaml", "final": "nowhere",
        "rejected": 2, "versions": [], "rows": rows,
    }  # fmt: skip


HELD_OUT = {
    "math_reasoning": {
        "prompts": 4,
        "figures": {"untrained": {"words": 40.0, "accuracy": 25.0}, "fixed-0": {"words": 41.0, "accuracy": 0.0}},
        "elo": [{"name": "untrained", "elo": 1010.4, "low": 900.0, "high": 1100.0},
                {"name": "fixed-0", "elo": 989.6, "low": 880.0, "high": 1090.0}],
    }
}  # fmt: skip


def test_figures_are_means_of_the_first_and_the_last_steps() -> None:
    content = document([_run("fixed", 0), _run("regrade", 1)], HELD_OUT, 6)
    fixed, regrade = content["runs"]
    assert fixed["reward"] == pytest.approx({"first": 0.2, "last": 0.5})
    assert (fixed["steps_by_version"], regrade["steps_by_version"]) == ({"1": 6}, {"1": 3, "2": 3})
    assert fixed["seconds_a_step"] == 8.0
    assert fixed["rows"][0] == {
        "step": 1.0, "version": 1.0, "seconds": 8.0, "reward": 0.1, "right answers": 0.5, "tokens": 51.0
    }  # fmt: skip
    text = table(content)
    assert (
        "| math_reasoning | regrade | 1 | 1.200 to 1.500 |  | 0.50 to 0.50 | 52 to 55 | v1: 3, v2: 3 | 2 | 8 |" in text
    )
    assert "| fixed-0 | 41.0 | 0.0 | 990 (880 to 1090) |" in text


def test_the_plot_has_a_row_per_task(tmp_path: Path) -> None:
    path = tmp_path / "training.svg"
    draw(path, [_run(arm, seed, task) for task in ("essay_writing", "math_reasoning") for arm in ("fixed", "regrade")
                for seed in (0, 1)])  # fmt: skip
    first = path.read_bytes()
    assert first.count(b'id="axes_') == 6
    draw(path, [_run(arm, seed, task) for task in ("essay_writing", "math_reasoning") for arm in ("fixed", "regrade")
                for seed in (0, 1)])  # fmt: skip
    assert path.read_bytes() == first, "the same runs give the same plot"


def test_a_completed_run_is_not_repeated(tmp_path: Path) -> None:
    spec = Spec("essay_writing", "regrade", 1, 6, Path("some.yaml"))
    folder = tmp_path / "essay_writing-regrade-1-6"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(_run("regrade", 1)), encoding="utf-8")
    assert train(spec, tmp_path / "no-policy", tmp_path, print) == _run("regrade", 1)
