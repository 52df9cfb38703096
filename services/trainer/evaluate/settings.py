"""Settings of an evaluation: YAML files (`--config`), `REGRADE_EVALUATE_*` variables, command-line options."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from regrade.contracts import Name
from services.kit.http.addresses import split_urls
from services.kit.settings import BearerKey, ServiceUrl
from services.trainer.data.corpora import DataSettings
from services.trainer.settings import FileSettings


class EvaluateSettings(FileSettings):
    """Which policies to compare, on which prompts, with which judge."""

    model_config = SettingsConfigDict(env_prefix="REGRADE_EVALUATE_", cli_prog_name="evaluate")

    task: Name = Field("essay_writing", description="Task pack.")
    data: DataSettings = Field(DataSettings(), description="Prompts to evaluate on; skip those of the training.")
    count: int = Field(64, ge=1, description="Number of prompts.")
    entrants: dict[Name, str] = Field(
        {},
        description="Policies by name (JSON): a checkpoint, an adapter, a model of the hub, or a JSONL of completions.",
    )
    out: Path = Field(Path("evaluation"), description="Folder for the table, the plot, the metrics and completions.")
    max_completion_tokens: int = Field(256, ge=1, description="Longest completion, in tokens.")
    batch: int = Field(8, ge=1, description="Completions generated in one batch.")
    use_cpu: bool = Field(False, description="Generate on the CPU even where a GPU is available.")
    seed: int = Field(0, ge=0, description="Seed of data order and bootstrap.")
    judge_url: str = Field("", repr=False, description="Tournament judge, without /v1; empty: no tournament.")
    judge_model: str = Field("default", description="The judge's model. Use another one than the training's judge.")
    judge_key: BearerKey = Field(SecretStr(""), description="The judge's API key.")
    judge_in_flight: int = Field(8, ge=1, description="Concurrent requests to the judge.")
    price_in: float = Field(0.0, ge=0, description="Price of a million prompt tokens of the judge.")
    price_out: float = Field(0.0, ge=0, description="Price of a million completion tokens of the judge.")
    pairs: Path | None = Field(
        None, description="JSONL of {prompt, better, worse}: measure how well the judge behind /score orders them."
    )
    reward_url: ServiceUrl = Field("http://127.0.0.1:8700", description="URL of the reward service, for the pairs.")
    reward_key: BearerKey = Field(SecretStr(""), description="API key for the reward service.")

    @model_validator(mode="after")
    def _has_work(self) -> Self:
        if not self.entrants and self.pairs is None:
            raise ValueError("set entrants to compare policies, or pairs to measure the judge")
        if self.judge_url:
            split_urls(self.judge_url)
        return self
