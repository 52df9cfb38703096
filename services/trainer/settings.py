"""Settings of the trainer: YAML files, `REGRADE_TRAINER_*` variables over them, command-line options over both.

A nested one is `rewards.answer` as an option and `REGRADE_TRAINER_REWARDS__ANSWER` as a variable.
"""

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from regrade.contracts import Mode, Name, OnOutage
from services.trainer.data.corpora import DataSettings

S = TypeVar("S", bound=BaseSettings)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RewardMix(_Part):
    """What a completion's reward is made of."""

    judge: float = Field(1.0, ge=0, description="Weight of the reward service's reward.")
    answer: float = Field(0.0, ge=0, description="Weight of the exact check of the final answer or verdict.")
    by: Literal["sum", "coin"] = Field(
        "sum", description="sum: weighted mean of both; coin: each step one of the two, drawn by weight (the paper's)."
    )

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.judge + self.answer <= 0.0:
            raise ValueError("one of the weights is above 0")
        return self


class Generation(_Part):
    """How completions are drawn."""

    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the policy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Share of the probability that is sampled from.")
    vllm: Literal["off", "colocate", "server"] = Field(
        "off", description="colocate: vLLM on the training GPUs; server: `trl vllm-serve` at vllm_url."
    )
    vllm_url: str = Field("", description="Base URL of the vLLM server.")
    vllm_memory: float = Field(0.3, gt=0, le=1, description="Share of the GPU's memory for a colocated vLLM.")
    vllm_tensor_parallel: int = Field(1, ge=1, description="GPUs a colocated vLLM is split over.")
    vllm_sleep: bool = Field(False, description="Let a colocated vLLM give its memory back while the policy learns.")
    chunks: int = Field(
        1, ge=1, description="Parts a batch is generated in; the first is scored while the next is generated."
    )


class Lora(_Part):
    """Adapters instead of all weights."""

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0 trains all weights.")
    alpha: int = Field(32, ge=1, description="Their scale.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before them.")
    targets: str = Field("all-linear", description="Modules that get one, in PEFT's words.")


class StopRule(_Part):
    """When a run has diverged; it ends with a checkpoint and status 3. 0 switches a rule off."""

    max_kl: float = Field(0.0, ge=0, description="Mean KL to the reference above this; needs beta.")
    max_grad_norm: float = Field(0.0, ge=0, description="Gradient norm above this, before it is clipped.")
    min_entropy: float = Field(0.0, ge=0, description="Mean entropy of the policy's tokens below this.")
    max_unscored: float = Field(0.0, ge=0, le=1, description="Share of completions without a reward above this.")
    patience: int = Field(5, ge=1, description="Steps in a row before it ends the run; a loss that is no number: one.")


class TrainerSettings(BaseSettings):
    """One run of GRPO or RLOO."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_TRAINER_", env_nested_delimiter="__", extra="forbid", frozen=True, cli_kebab_case=True,
        cli_prog_name="trainer",
    )  # fmt: skip

    task: Name = Field("essay_writing", description="Task pack to train on.")
    algorithm: Literal["grpo", "rloo"] = Field("grpo", description="How advantages are made of a group's rewards.")
    run: Name = Field("run-1", description="Name of the run: traces and pins carry it. Keep it when resuming.")
    model: str = Field(description="Policy: a folder, or a model id of the Hugging Face hub.")
    output_dir: Path = Field(description="Checkpoints and the training log go here.")
    data: DataSettings = Field(DataSettings(), description="What is trained on.")
    scopes: bool = Field(True, description="Send each prompt's scope, so that the rubric of its scope scores it.")
    reward_url: str = Field("http://127.0.0.1:8700", description="Base URL of the reward service.")
    reward_key: SecretStr = Field(SecretStr(""), description="API key for the reward service.")
    lineage: Name = Field("main", description="Lineage of rubrics that scores the run.")
    mode: Mode | None = Field(None, description="How the judge reaches a level; left out, as set for the task.")
    on_outage: OnOutage = Field(OnOutage.SERVE, description="What is wanted while the service's Redis is away.")
    rewards: RewardMix = Field(RewardMix(), description="What a reward is made of.")
    generation: Generation = Field(Generation(), description="How completions are drawn.")
    lora: Lora = Field(Lora(), description="Adapters instead of all weights.")
    stop: StopRule = Field(StopRule(), description="When a run has diverged.")
    steps: int = Field(100, ge=1, description="Optimizer steps.")
    groups_per_step: int = Field(2, ge=1, description="Prompts a step, over all processes.")
    group_size: int = Field(4, ge=2, description="Completions a prompt: a group, whose rewards are compared.")
    accumulation: int = Field(1, ge=1, description="Passes a step's completions are split into, to save memory.")
    iterations: int = Field(1, ge=1, description="Updates made of one batch of completions.")
    max_completion_tokens: int = Field(128, ge=8, description="Longest completion, in tokens.")
    learning_rate: float = Field(1e-6, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(2, ge=0, description="Steps over which the learning rate rises.")
    clip_grad_norm: float = Field(1.0, gt=0, description="Longer gradients are shortened to this.")
    beta: float = Field(0.0, ge=0, description="Weight of the KL penalty; 0 keeps no reference model.")
    gradient_checkpointing: bool | None = Field(
        None, description="Compute activations anew instead of keeping them; left out: on a GPU."
    )
    deepspeed: str = Field("", description="DeepSpeed configuration (JSON file); empty: none.")
    seed: int = Field(0, ge=0, description="Seed of data order and sampling.")
    save_every: int = Field(10, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints kept, the newest.")
    resume: bool = Field(True, description="Continue from the newest checkpoint in the output folder, if any.")
    use_cpu: bool = Field(False, description="Stay on the CPU even where a GPU is to be had.")
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Where metrics go beside the log file and the console (JSON list)."
    )
    metrics_port: int = Field(0, ge=0, le=65_535, description="Port of Prometheus metrics; 0: none.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.generation.vllm == "server" and not self.generation.vllm_url:
            raise ValueError("generation.vllm 'server' needs generation.vllm_url")
        if self.stop.max_kl and not self.beta:
            raise ValueError("stop.max_kl needs beta: without a reference model there is no KL")
        if self.groups_per_step * self.group_size % self.accumulation:
            raise ValueError("accumulation has to divide groups_per_step * group_size")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Files last: a variable and an option override what they say."""
        return (*sources, *named.values(), YamlConfigSettingsSource(settings_cls))


def with_files(kind: type[S], arguments: list[str]) -> tuple[type[S], list[str]]:
    """`kind` reading the YAML files that `--config FILE` names, later ones over earlier, and the other arguments.

    Raises `FileNotFoundError`.
    """
    rest: list[str] = []
    files: list[Path] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, _, value = argument.partition("=")
        if name == "--config":
            files.append(Path(value or next(waiting, "")))
        else:
            rest.append(argument)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"no configuration file {', '.join(missing)}")
    space: dict[str, Any] = {"model_config": SettingsConfigDict(yaml_file=files), "__module__": kind.__module__}
    return (type(kind.__name__, (kind,), space), rest) if files else (kind, rest)
