"""Settings of the local stack: command-line options, or environment variables `REGRADE_LOCAL_*`."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from regrade.contracts import Name
from regrade.contracts.base import without_dot_parts

Port = Annotated[int, Field(ge=0, le=65_535)]


class LocalSettings(BaseSettings):
    """One demonstration run; with the defaults it takes about ten minutes on two cores."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_LOCAL_", extra="forbid", frozen=True, cli_kebab_case=True, cli_prog_name="make demo"
    )

    task: Name = Field("essay_writing", description="Task pack to train on.")
    steps: int = Field(18, ge=4, description="Optimizer steps.")
    run: Annotated[str, AfterValidator(without_dot_parts)] = Field(
        "",
        pattern=r"^([A-Za-z0-9_.-]{1,64})?$",
        description="Name of the run. One that exists is continued, with its data. Empty: the date and time, "
        "or `serve` with --serve.",
    )
    runs_dir: Path = Field(Path("runs"), description="Folder of the runs and of the converted policy.")
    serve: bool = Field(False, description="Only serve, until Ctrl-C.")
    reward_port: Port = Field(
        0, description="Port of the reward service; 0: 8700, or any if a demonstration finds it in use."
    )
    meta_reward_port: Port = Field(0, description="Port of the meta-reward service; 0: 8701, in the same way.")
    judge_url: str = Field("", description="Your own judge engine, without /v1; empty: start the small one.")
    judge_model: str = Field("", description="The engine's model; empty: the first one it lists.")
    every_traces: int = Field(24, ge=8, description="New traces that start a rubric cycle.")
    gate_originals: int = Field(12, ge=8, description="Trusted originals that the gate measures on.")
    threads: int = Field(2, ge=1, description="CPU threads of the trainer.")
    judge_threads: int = Field(1, ge=1, description="CPU threads of the engine.")
    seed: int = Field(0, ge=0, description="Seed of the training run.")
