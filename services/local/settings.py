"""Settings of the local stack: command-line options, or environment variables `REGRADE_LOCAL_*`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from regrade.contracts import Name


class LocalSettings(BaseSettings):
    """One demonstration run; the defaults take about ten minutes on two cores."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_LOCAL_", extra="forbid", frozen=True, cli_kebab_case=True, cli_prog_name="make demo"
    )

    task: Name = Field("essay_writing", description="Task pack to train on.")
    steps: int = Field(18, ge=4, description="Optimizer steps.")
    run: str = Field("", description="Name of the run; empty takes the time of day.")
    runs_dir: Path = Field(Path("runs"), description="Where runs and the converted policy are kept.")
    serve: bool = Field(False, description="Only serve, on ports 8700 (reward) and 8701 (meta-reward), until Ctrl-C.")
    judge_url: str = Field("", description="A judge engine of your own, without /v1; empty starts the small one.")
    judge_model: str = Field("", description="Its model; empty takes the first one it lists.")
    every_traces: int = Field(24, ge=8, description="New traces that start a rubric cycle.")
    gate_originals: int = Field(12, ge=8, description="Trusted originals the gate measures on.")
    gate_alpha: float = Field(
        0.2, gt=0, lt=0.5, description="Error level of the gate's decisions; 12 originals show little at 0.05."
    )
    samples: int = Field(1, ge=1, description="Traces the meta-judge analyses in a cycle.")
    threads: int = Field(2, ge=1, description="CPU threads of the trainer.")
    judge_threads: int = Field(1, ge=1, description="CPU threads of the engine; one leaves room for a training step.")
    seed: int = Field(0, ge=0, description="Seed of the training run.")
