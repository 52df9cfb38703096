"""Precedence of files, variables and options; every shipped configuration; inconsistent settings are refused."""

import json
import os
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from services.kit.settings import read_settings
from services.trainer.settings import TrainerSettings, with_files
from services.trainer.train import BatchError, per_device_batch, trl_config

CONFIGS = Path(__file__).parents[2] / "configs"
NEEDED = ["--model", "m", "--output-dir", "o"]

pytestmark = pytest.mark.filterwarnings("ignore")


def _read(*arguments: str) -> TrainerSettings:
    kind, rest = with_files(TrainerSettings, list(arguments))
    return read_settings(kind, rest)


def test_options_go_over_variables_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("model: file\noutput_dir: out\nsteps: 1\nbeta: 0.5\nseed: 1\ngeneration:\n  top_p: 0.5\n")
    second.write_text("seed: 2\n")
    monkeypatch.setenv("REGRADE_TRAINER_STEPS", "2")
    monkeypatch.setenv("REGRADE_TRAINER_BETA", "0.25")
    monkeypatch.setenv("REGRADE_TRAINER_REWARDS__ANSWER", "0.5")
    settings = _read("--config", str(first), f"--config={second}", "--steps", "3", "--generation.temperature", "0.7")
    assert (settings.model, settings.steps, settings.beta, settings.seed) == ("file", 3, 0.25, 2)
    assert (settings.rewards.answer, settings.generation.temperature, settings.generation.top_p) == (0.5, 0.7, 0.5)


def test_a_mistyped_setting_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: m\noutput_dir: o\nsteps_: 3\n")
    with pytest.raises(SystemExit):
        _read("--config", str(path))
    with pytest.raises(FileNotFoundError):
        _read("--config", "nowhere.yaml")
    monkeypatch.setenv("REGRADE_TRAINER_STEP", "3")
    with pytest.raises(SystemExit):
        _read(*NEEDED)


@pytest.mark.parametrize(
    "options",
    [
        ["--generation.vllm", "server"], ["--stop.max-kl", "1"], ["--accumulation", "3"],
        ["--rewards.judge", "0"], ["--algorithm", "ppo"],
    ],
)  # fmt: skip
def test_inconsistent_settings_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit):
        _read(*NEEDED, *options)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*_*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    if path.parent.name == "accelerate":
        assert load_config_from_file(str(path)).num_processes >= 1
        return
    settings = _read("--config", str(path))
    assert settings.task == path.stem
    world = 8 if path.parent.name == "paper" else 1
    assert per_device_batch(settings, world) >= 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("deepspeed/*.json")), ids=lambda path: path.stem)
def test_deepspeed_takes_the_steps_of_the_run(path: Path) -> None:
    config = json.loads(path.read_text())
    assert config["train_micro_batch_size_per_gpu"] == config["gradient_accumulation_steps"] == "auto"


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_step_is_split_over_processes_and_passes(tmp_path: Path, algorithm: str) -> None:
    base = {"model": "m", "output_dir": tmp_path, "algorithm": algorithm, "use_cpu": True}
    settings = TrainerSettings.model_validate(base | {"groups_per_step": 4, "group_size": 4, "accumulation": 2})
    config = trl_config(settings, world=2)
    assert config.per_device_train_batch_size == 4
    assert config.gradient_accumulation_steps == config.steps_per_generation == 2
    with pytest.raises(BatchError):
        per_device_batch(settings, 3)
    assert os.environ.get("TENSORBOARD_LOGGING_DIR") is None


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"vllm": "server", "vllm_url": "http://gpu:8000"}, {"vllm_mode": "server", "vllm_server_base_url": "http://gpu:8000"}),
        ({"vllm": "colocate", "vllm_sleep": True}, {"vllm_mode": "colocate", "vllm_enable_sleep_mode": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_vllm_settings_reach_trl(
    tmp_path: Path, algorithm: str, generation: dict[str, object], expected: dict[str, object]
) -> None:
    base = {"model": "m", "output_dir": tmp_path, "algorithm": algorithm, "use_cpu": True, "generation": generation}
    config = trl_config(TrainerSettings.model_validate(base))
    assert config.use_vllm
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_missing_logger_is_named(tmp_path: Path) -> None:
    settings = TrainerSettings.model_validate(
        {"model": "m", "output_dir": tmp_path, "log_to": ["trackio"], "use_cpu": True}
    )
    with pytest.raises(ModuleNotFoundError, match="trackio"):
        trl_config(settings)
