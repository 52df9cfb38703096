"""A run killed after its last checkpoint: steps it repeats keep their rubric, later ones get the new one."""

import os
import shutil
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest

from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.trainer.records import LOG_NAME, read_log
from services.trainer.settings import TrainerSettings
from services.trainer.train import train, trl_config
from tests.support.builders import TASK, activate, llm, min_words, rubric
from tests.trainer.test_train import policy

__all__ = ["policy"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("training"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.timeout(600),
]


def _settings(folder: Path, **fields: object) -> TrainerSettings:
    base = {"model": "none", "output_dir": folder, "run": "tiny", "group_size": 2, "groups_per_step": 1}
    return TrainerSettings.model_validate(
        base | {"max_completion_tokens": 8, "save_every": 2, "use_cpu": True} | fields
    )


def test_trl_config_keeps_a_group_within_a_step(tmp_path: Path) -> None:
    config = trl_config(_settings(tmp_path, steps=5, group_size=4, groups_per_step=3, beta=0.1, seed=7))
    assert (config.max_steps, config.save_steps, config.seed, config.beta) == (5, 2, 7, 0.1)
    assert config.per_device_train_batch_size == config.generation_batch_size == 12
    assert (config.num_generations, config.steps_per_generation, config.gradient_accumulation_steps) == (4, 1, 1)
    assert (config.max_completion_length, config.run_name, config.logging_steps) == (8, "tiny", 1)
    assert config.report_to == []


async def test_repeated_steps_keep_their_pin(
    reward_url: str, store: RubricStore, trace_log: TraceLog, policy: Path, tmp_path: Path
) -> None:
    base = {"model": str(policy), "reward_url": reward_url}
    train(_settings(tmp_path, steps=3, **base))
    shutil.rmtree(tmp_path / "checkpoint-3")  # as if the run had been killed in its third step
    assert await activate(store, rubric(llm("clarity"), min_words(5))) == 2
    train(_settings(tmp_path, steps=5, **base))

    rows = read_log(tmp_path / LOG_NAME)
    assert [(row["step"], row["regrade/rubric_version"]) for row in rows] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert len((tmp_path / LOG_NAME).read_text().splitlines()) == 6, "the third step was logged twice"
    assert {"regrade/criterion/quality", "regrade/flag/truncated"} <= rows[0].keys() | rows[1].keys()
    assert {"regrade/criterion/clarity", "regrade/criterion/min_words"} <= rows[4].keys()
    traces = (await trace_log.recent(TASK, 100)).traces
    assert {(trace.run, trace.step, trace.version) for trace in traces} == {
        ("tiny", 0, 1), ("tiny", 1, 1), ("tiny", 2, 1), ("tiny", 3, 2), ("tiny", 4, 2)
    }  # fmt: skip
    assert Counter(trace.step for trace in traces)[2] == 2, "the repeated completions were answered from the store"
