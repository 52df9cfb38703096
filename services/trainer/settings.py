"""Settings of the trainer: environment variables `REGRADE_TRAINER_*`, or the same as command-line options."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from regrade.contracts import Name


class TrainerSettings(BaseSettings):
    """One GRPO run."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_TRAINER_", extra="forbid", frozen=True, cli_kebab_case=True, cli_prog_name="trainer"
    )

    task: Name = Field("essay_writing", description="Task pack to train on.")
    run: Name = Field("run-1", description="Name of the run: traces and pins carry it. Keep it when resuming.")
    model: str = Field(description="Policy: a folder, or a model id of the Hugging Face hub.")
    output_dir: Path = Field(description="Checkpoints and the training log go here.")
    reward_url: str = Field("http://127.0.0.1:8700", description="Base URL of the reward service.")
    reward_key: SecretStr = Field(SecretStr(""), description="API key for the reward service.")
    steps: int = Field(100, ge=1, description="Optimizer steps.")
    groups_per_step: int = Field(2, ge=1, description="Prompts a step, on one process.")
    group_size: int = Field(4, ge=2, description="Completions a prompt: a group, whose rewards are compared.")
    max_completion_tokens: int = Field(128, ge=8, description="Longest completion, in tokens.")
    learning_rate: float = Field(1e-6, gt=0, description="Peak learning rate.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the policy.")
    beta: float = Field(0.0, ge=0, description="Weight of the KL penalty; 0 keeps no reference model.")
    seed: int = Field(0, ge=0, description="Seed of data order and sampling.")
    save_every: int = Field(10, ge=1, description="Steps between checkpoints.")
    resume: bool = Field(True, description="Continue from the newest checkpoint in the output folder, if any.")
    use_cpu: bool = Field(False, description="Stay on the CPU even where a GPU is to be had.")
