"""A real TRL run on the CPU with a tiny random policy: rewards through `/score`, log, checkpoint, resume."""

import os
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from regrade import BlockingRewardClient
from regrade.adapters.trl import RegradeReward
from regrade.contracts import Purpose
from regrade.tasks import load_pack
from services.kit.store.trace_log import TraceLog
from services.trainer.data.corpora import DataSettings, examples, training_prompts
from services.trainer.records import LOG_NAME, read_log
from services.trainer.settings import TrainerSettings
from services.trainer.train import train
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text
from tests.support.tiny_policy import make_policy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("training"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random policy."""
    return make_policy(tmp_path_factory.mktemp("policy"))


def _settings(policy: Path, output: Path, url: str, steps: int) -> TrainerSettings:
    return TrainerSettings(
        model=str(policy), output_dir=output, reward_url=url, run="tiny", steps=steps, groups_per_step=2,
        group_size=2, max_completion_tokens=8, save_every=2, use_cpu=True,
    )  # fmt: skip


async def test_a_run_is_logged_and_resumes(
    reward_url: str, fake_engine: FakeEngine, trace_log: TraceLog, policy: Path, tmp_path: Path
) -> None:
    """Three steps with one item unscored, then resumed up to five: each step once, all traces under one run."""
    failed = False

    def script(messages: Messages) -> Reply:
        nonlocal failed
        failed, first = True, not failed
        return Reply({}, 400) if first else by_text(messages)

    fake_engine.script = script
    train(_settings(policy, tmp_path, reward_url, 3))
    rows = read_log(tmp_path / LOG_NAME)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["regrade/rubric_version"] == 1.0 for row in rows)
    assert all(0.0 <= row["regrade/criterion/quality"] <= 1.0 for row in rows)
    assert rows[0]["regrade/unscored_share"] == 0.25
    assert all(row["ended"] > row["started"] for row in rows)
    train(_settings(policy, tmp_path, reward_url, 5))
    assert [row["step"] for row in read_log(tmp_path / LOG_NAME)] == [1, 2, 3, 4, 5]
    assert (tmp_path / "final" / "model.safetensors").is_file()
    traces = (await trace_log.recent(TASK, 100)).traces
    assert {trace.run for trace in traces} == {"tiny"}
    assert Counter(trace.step for trace in traces) == {0: 3, 1: 4, 2: 4, 3: 4, 4: 4}


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
async def test_evaluation_batches_are_not_training(
    reward_url: str, trace_log: TraceLog, policy: Path, tmp_path: Path, kind: str
) -> None:
    """Before, between and after the steps, as TRL itself evaluates."""
    config, trainer_class = (GRPOConfig, GRPOTrainer) if kind == "grpo" else (RLOOConfig, RLOOTrainer)
    prompts = training_prompts(examples(DataSettings(), load_pack(TASK), 0))
    with BlockingRewardClient(reward_url) as client:
        trainer = trainer_class(
            model=LlamaForCausalLM.from_pretrained(policy),
            processing_class=PreTrainedTokenizerFast.from_pretrained(policy, padding_side="left"),
            reward_funcs=RegradeReward(TASK, run="tiny", client=client),
            args=config(
                output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, per_device_eval_batch_size=4,
                num_generations=2, max_completion_length=8, use_cpu=True, bf16=False, gradient_checkpointing=False,
                eval_strategy="steps", eval_steps=1, save_strategy="no", disable_tqdm=True, report_to="none",
                dataloader_pin_memory=False,
            ),
            train_dataset=prompts,
            eval_dataset=prompts.select(range(2)),
        )  # fmt: skip
        trainer.evaluate()
        trainer.train()
    traces = (await trace_log.recent(TASK, 100)).traces
    assert Counter((trace.purpose, trace.step) for trace in traces) == {
        (Purpose.TRAIN, 0): 4, (Purpose.TRAIN, 1): 4,
        (Purpose.EVAL, 0): 4, (Purpose.EVAL, 1): 4, (Purpose.EVAL, 2): 4,
    }  # fmt: skip
