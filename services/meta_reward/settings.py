"""Settings of the meta-reward service: environment variables `REGRADE_META_*`."""

from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from regrade.contracts import MAIN_LINEAGE, Digest, Name, SampleStrategy
from regrade.tasks import load_pack
from services.kit.settings import BaseUrls, ServiceSettings
from services.kit.store.keys import LineageKey


class MetaRewardSettings(ServiceSettings):
    """What triggers a cycle, what a cycle may cost, and what a candidate has to show."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_META_",
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_prog_name="services.meta_reward",
    )

    reward_url: str = Field("http://127.0.0.1:8700", description="Base URL of the reward service.")
    reward_key: SecretStr = Field(SecretStr(""), description="API key for the reward service.")
    meta_judge_url: BaseUrls = Field(
        "http://127.0.0.1:8000",
        description="Base URL of the meta-judge, without /v1; several of one model: separated by commas.",
    )
    meta_judge_model: str = Field("default", description="Model name sent to the meta-judge.")
    meta_judge_key: SecretStr = Field(SecretStr(""), description="Bearer key for the meta-judge, if it wants one.")
    meta_judge_timeout_s: float = Field(300.0, gt=0, description="Time limit of one meta-judge call.")
    meta_judge_in_flight: int = Field(4, ge=1, description="Meta-judge calls at once.")
    meta_judge_max_tokens: int = Field(1_024, ge=64, description="Longest meta-judge answer, in tokens.")

    tasks: tuple[Name, ...] = Field(("essay_writing",), description="Task packs whose rubrics evolve (JSON list).")
    max_scopes: int = Field(64, ge=0, description="Scopes of a task with a rubric of their own that evolve, at most.")
    poll_s: float = Field(1.0, gt=0, description="How often the trace log is looked at.")
    every_traces: int = Field(512, ge=8, description="New training traces that start a cycle.")
    every_steps: int = Field(0, ge=0, description="Training steps that start a cycle, if they come first; 0: none do.")
    pack_schedule: bool = Field(False, description="Where every_steps is 0: as many steps as the task pack says.")
    every_s: float = Field(
        86_400.0, ge=0, description="A cycle starts, however few the traces, when one has waited so long; 0: none does."
    )
    alarm_traces: int = Field(
        64, ge=0, description="Newest traces that alarms are measured on, between cycles too; 0: in cycles only."
    )
    longest_wait: int = Field(
        8, ge=1, description="After cycles that activate nothing, count up to so many times as many traces and steps."
    )
    max_window: int = Field(2_048, ge=8, description="Traces one cycle consumes at most.")
    lease_ttl_s: float = Field(15.0, ge=0.5, description="How long a dead worker's lease stands.")
    resume_within_s: float = Field(3_600.0, gt=0, description="A cycle that began longer ago is not gone on with.")
    stage_tries: int = Field(4, ge=1, description="Tries at one stage of a cycle before it is given up.")
    samples: int = Field(8, ge=1, le=64, description="Traces the meta-judge analyses in a cycle.")
    sample_weights: dict[SampleStrategy, float] = Field(
        {
            SampleStrategy.SUSPICIOUS: 0.4,
            SampleStrategy.DISAGREEMENT: 0.2,
            SampleStrategy.RECENT: 0.15,
            SampleStrategy.GREAT_PAIRS: 0.15,
            SampleStrategy.UNIFORM: 0.1,
        },
        description="How much of the sample each strategy draws (JSON); the paper has uniform alone.",
    )
    strategy: Literal["regrade", "paper"] = Field(
        "regrade",
        description="`paper`: the paper's own procedure, to compare with: a uniform sample, a blind merge, no lint and "
        "no gate. Choosing it is an operator's override, recorded as one with each activation.",
    )
    llm_proposer: bool = Field(True, description="Ask the meta-judge for candidates; off: the catalogue alone.")
    max_candidates: int = Field(8, ge=1, le=16, description="Candidates a gate compares at most.")

    gate_originals: int = Field(24, ge=8, description="Trusted originals that only the gate sees, at most.")
    gate_early: int = Field(
        24,
        ge=0,
        description="Early completions of the policy that become originals, too, at most, as more decisions take more.",
    )
    gate_batch: int = Field(16, ge=1, le=128, description="Items in one shadow request.")
    gate_alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Error level of the gain, for all candidates and decisions against one rubric."
    )
    gate_margin: float = Field(0.05, ge=0, lt=1, description="Loss of anchor order that counts as non-inferior.")
    gate_calls: int = Field(20_000, ge=1, description="Judge calls the candidates of one cycle may take in the gate.")
    max_llm_criteria: int = Field(8, ge=0, description="LLM criteria a candidate may have: its cost budget.")

    calibrate: tuple[Name, ...] = Field(
        (),
        description="Tasks whose candidates get an offset, of 0.1 at most, that keeps the mean reward of trusted "
        "originals where it was (JSON list).",
    )

    audit_share: float = Field(
        0.0, ge=0, le=1, description="Share of the training traces that the audit judge scores, too; 0: none."
    )
    audit_url: str = Field(
        "",
        description="Base URL of another reward service, whose judge audits; it serves the same tasks "
        "(its bootstrap_tasks). Empty: the judge that trains.",
    )
    audit_key: SecretStr = Field(SecretStr(""), description="API key for that service.")
    audit_rubrics: dict[Name, Digest] = Field(
        {},
        description="Digest of the fixed rubric to audit by, by task (JSON object); else the pack's starting rubric.",
    )
    audit_batch: int = Field(16, ge=1, le=512, description="Traces of a line audited in one look at most.")
    audit_window: int = Field(32, ge=8, description="Audited traces that are compared with as many earlier ones.")

    archive_url: str = Field(
        "",
        repr=False,
        description="Folder, or URL that fsspec knows (s3://bucket/path), to which traces are archived as Parquet "
        "before they leave Redis; empty: none leaves, up to the reward service's cap.",
    )
    archive_rows: int = Field(4_096, ge=1, description="Traces in one archive file at most.")
    archive_every_s: float = Field(
        600.0, gt=0, description="A smaller file is written when a trace has waited so long."
    )
    archive_keep: int = Field(
        16_384, ge=0, description="Newest traces of a task that stay in Redis in any case: the watch compares by them."
    )

    watch_traces: int = Field(64, ge=8, description="Traces under a new rubric before the watch judges it.")
    watch_cooldown_s: float = Field(
        1_800.0, ge=0, description="After an automatic rollback there is no other for so long; operators are not bound."
    )

    def steps_for(self, task: str) -> int:
        """Training steps that start a cycle of a task; 0: none do."""
        return self.every_steps or (load_pack(task).every_steps if self.pack_schedule else 0)

    @property
    def drawn_by(self) -> dict[SampleStrategy, float]:
        """The weights a sample is drawn by: the paper's is uniform."""
        return {SampleStrategy.UNIFORM: 1.0} if self.strategy == "paper" else self.sample_weights

    @model_validator(mode="after")
    def _paper_has_a_meta_judge(self) -> Self:
        if self.strategy == "paper" and not self.llm_proposer:
            raise ValueError("strategy 'paper' proposes with the meta-judge alone: it needs llm_proposer")
        return self

    @field_validator("sample_weights")
    @classmethod
    def _draws_something(cls, weights: dict[SampleStrategy, float]) -> dict[SampleStrategy, float]:
        if not all(0.0 <= weight < float("inf") for weight in weights.values()) or not any(weights.values()):
            raise ValueError("weights are 0 or more, and one of them is more than 0")
        return weights


def served_lineages(settings: MetaRewardSettings) -> tuple[LineageKey, ...]:
    """The tasks' own lines; those of scopes come to them (`lines.py`)."""
    return tuple(LineageKey(task, MAIN_LINEAGE) for task in settings.tasks)
