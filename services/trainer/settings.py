"""Settings of the trainer: YAML files, `REGRADE_TRAINER_*` variables over them, command-line options over both.

A nested setting is `rewards.answer` as an option and `REGRADE_TRAINER_REWARDS__ANSWER` as a variable.
"""

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from regrade.contracts import Mode, Name, OnOutage
from services.kit.settings import BearerKey, ServiceUrl
from services.trainer.data.corpora import DataSettings

S = TypeVar("S", bound="FileSettings")


class FileSettings(BaseSettings):
    """Settings that YAML files may hold; environment variables and options take precedence over the files."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", extra="forbid", frozen=True, cli_kebab_case=True)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The default sources, then the YAML files (the last source has the lowest precedence)."""
        return (*sources, *named.values(), YamlConfigSettingsSource(settings_cls))


def with_files(kind: type[S], arguments: list[str]) -> tuple[type[S], list[str]]:
    """A subclass of `kind` that reads the YAML files named by `--config FILE`, and the remaining arguments.

    `--config` may be repeated; a later file overrides an earlier one. Raises `FileNotFoundError`.
    """
    rest: list[str] = []
    files: list[Path] = []
    remaining = iter(arguments)
    for argument in remaining:
        name, _, value = argument.partition("=")
        if name == "--config":
            files.append(Path(value or next(remaining, "")))
        else:
            rest.append(argument)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"no configuration file {', '.join(missing)}")
    namespace: dict[str, Any] = {"model_config": SettingsConfigDict(yaml_file=files), "__module__": kind.__module__}
    return (type(kind.__name__, (kind,), namespace), rest) if files else (kind, rest)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RewardMix(_Section):
    """How a completion's reward is combined from the judge's reward and the exact answer check."""

    judge: float = Field(1.0, ge=0, description="Weight of the reward service's reward.")
    answer: float = Field(0.0, ge=0, description="Weight of the exact check of the final answer or verdict.")
    by: Literal["sum", "coin"] = Field(
        "sum", description="sum: weighted mean of both; coin: one of the two per step, drawn by weight (the paper's)."
    )

    @model_validator(mode="after")
    def _has_weight(self) -> Self:
        if self.judge + self.answer <= 0.0:
            raise ValueError("rewards.judge and rewards.answer are both 0; set at least one above 0")
        return self


class Generation(_Section):
    """How completions are sampled from the policy."""

    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the policy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: probability mass to sample from.")
    vllm: Literal["off", "colocate", "server"] = Field(
        "off", description="colocate: vLLM on the training GPUs; server: `trl vllm-serve` at vllm_url."
    )
    vllm_url: str = Field("", description="Base URL of the vLLM server.")
    vllm_memory: float = Field(0.3, gt=0, le=1, description="Share of the GPU's memory for a colocated vLLM.")
    vllm_tensor_parallel: int = Field(1, ge=1, description="GPUs over which a colocated vLLM is split.")
    vllm_sleep: bool = Field(False, description="Release a colocated vLLM's GPU memory during the optimizer step.")


class Lora(_Section):
    """LoRA adapters on all linear layers, without dropout; rank 0 trains all weights."""

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0 trains all weights.")
    alpha: int = Field(32, ge=1, description="Scaling factor of the adapters (lora_alpha).")


class StopRule(_Section):
    """When a run counts as diverged: it ends with a checkpoint and exit status 3. 0 disables a limit."""

    max_kl: float = Field(0.0, ge=0, description="Largest mean KL to the reference model; needs beta.")
    max_grad_norm: float = Field(0.0, ge=0, description="Largest gradient norm before clipping.")
    min_entropy: float = Field(0.0, ge=0, description="Smallest mean token entropy of the policy.")
    max_unscored: float = Field(0.0, ge=0, le=1, description="Largest share of completions without a reward.")
    patience: int = Field(
        5, ge=1, description="Consecutive steps beyond a limit that end the run; a non-finite loss ends it at once."
    )


class TrainerSettings(FileSettings):
    """One training run with GRPO or RLOO."""

    model_config = SettingsConfigDict(env_prefix="REGRADE_TRAINER_", cli_prog_name="trainer")

    task: Name = Field("essay_writing", description="Task pack to train on.")
    algorithm: Literal["grpo", "rloo"] = Field("grpo", description="How a group's rewards become advantages.")
    run: Name = Field("run-1", description="Name of the run, recorded in traces and pins. Keep it when resuming.")
    model: str = Field(description="Policy: a folder, or a model id of the Hugging Face hub.")
    output_dir: Path = Field(description="Folder of the checkpoints and the training log.")
    data: DataSettings = Field(DataSettings(), description="Prompts to train on.")
    scopes: bool = Field(True, description="Send each prompt's scope, so that the rubric of its scope scores it.")
    reward_url: ServiceUrl = Field("http://127.0.0.1:8700", description="Base URL of the reward service.")
    reward_key: BearerKey = Field(SecretStr(""), description="API key for the reward service.")
    lineage: Name = Field("main", description="Lineage of rubrics that scores the run.")
    mode: Mode | None = Field(None, description="Judge mode; when omitted, the task's mode.")
    on_outage: OnOutage = Field(OnOutage.SERVE, description="What the service does while its Redis is unreachable.")
    rewards: RewardMix = Field(RewardMix(), description="How the reward is combined.")
    generation: Generation = Field(Generation(), description="How completions are sampled.")
    lora: Lora = Field(Lora(), description="LoRA adapters in place of full training.")
    stop: StopRule = Field(StopRule(), description="When a run counts as diverged.")
    steps: int = Field(100, ge=1, description="Optimizer steps.")
    groups_per_step: int = Field(2, ge=1, description="Prompts per step, over all processes.")
    group_size: int = Field(4, ge=2, description="Completions per prompt (a group); advantages compare them.")
    accumulation: int = Field(1, ge=1, description="Gradient accumulation steps, to save memory.")
    iterations: int = Field(1, ge=1, description="Optimizer updates per batch of completions.")
    max_completion_tokens: int = Field(128, ge=8, description="Longest completion, in tokens.")
    learning_rate: float = Field(1e-6, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(2, ge=0, description="Steps of linear warm-up of the learning rate.")
    clip_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    beta: float = Field(0.0, ge=0, description="Weight of the KL penalty; 0 loads no reference model.")
    gradient_checkpointing: bool | None = Field(
        None, description="Recompute activations instead of storing them; when omitted, only on a GPU."
    )
    deepspeed: str = Field("", description="DeepSpeed configuration (JSON file); empty: none.")
    seed: int = Field(0, ge=0, description="Seed of data order and sampling.")
    save_every: int = Field(10, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints to keep.")
    use_cpu: bool = Field(False, description="Train on the CPU even where a GPU is available.")
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Where to send metrics, besides the log file and the console (JSON list)."
    )
    metrics_port: int = Field(0, ge=0, le=65_535, description="Port of Prometheus metrics; 0: none.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.generation.vllm == "server" and not self.generation.vllm_url:
            raise ValueError("generation.vllm 'server' needs generation.vllm_url")
        if self.stop.max_kl and not self.beta:
            raise ValueError("stop.max_kl needs beta above 0: without a reference model there is no KL")
        if self.groups_per_step * self.group_size % self.accumulation:
            raise ValueError("accumulation must divide groups_per_step * group_size")
        return self
