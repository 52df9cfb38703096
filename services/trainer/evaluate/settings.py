"""Settings of an evaluation: YAML files (`--config`), `REGRADE_EVALUATE_*` variables, command-line options."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from regrade.contracts import Name
from services.kit.http.load_balancing import split_urls
from services.trainer.data.corpora import DataSettings


class EvaluateSettings(BaseSettings):
    """Which policies are compared, on what, by whom."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_EVALUATE_", env_nested_delimiter="__", extra="forbid", frozen=True, cli_kebab_case=True,
        cli_prog_name="evaluate",
    )  # fmt: skip

    task: Name = Field("essay_writing", description="Task pack.")
    data: DataSettings = Field(DataSettings(), description="What is measured on; skip what was trained on.")
    count: int = Field(64, ge=1, description="Prompts.")
    entrants: dict[Name, str] = Field(
        {}, description="Policies by name (JSON): a checkpoint, an adapter, a model of the hub, or a JSONL of answers."
    )
    out: Path = Field(Path("evaluation"), description="Folder of the table, the plot, figures and completions.")
    max_completion_tokens: int = Field(256, ge=1, description="Longest completion, in tokens.")
    batch: int = Field(8, ge=1, description="Completions generated at once.")
    use_cpu: bool = Field(False, description="Stay on the CPU even where a GPU is to be had.")
    seed: int = Field(0, ge=0, description="Seed of data order and intervals.")
    judge_url: str = Field("", repr=False, description="Judge of the tournament, without /v1; empty: no tournament.")
    judge_model: str = Field("default", description="Its model. Take another one than the one trained against.")
    judge_key: SecretStr = Field(SecretStr(""), description="Its key.")
    judge_in_flight: int = Field(8, ge=1, description="Questions at once.")
    price_in: float = Field(0.0, ge=0, description="Price of a million prompt tokens of the judge.")
    price_out: float = Field(0.0, ge=0, description="Price of a million completion tokens of the judge.")
    draws: int = Field(1_000, ge=10, description="Bootstrap draws of the intervals.")
    level: float = Field(0.95, gt=0.5, lt=1, description="Coverage of the intervals.")
    pairs: Path | None = Field(None, description="JSONL of {prompt, better, worse}: is the judge behind /score valid?")
    reward_url: str = Field("http://127.0.0.1:8700", description="Base URL of the reward service, for the pairs.")
    reward_key: SecretStr = Field(SecretStr(""), description="API key for the reward service.")

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.entrants and self.pairs is None:
            raise ValueError("name entrants to compare, or pairs to try the judge on")
        if self.judge_url:
            split_urls(self.judge_url)
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Files last: a variable and an option override what they say."""
        return (*sources, *named.values(), YamlConfigSettingsSource(settings_cls))
