"""Settings of the meta-reward service: environment variables `REGRADE_META_*`."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from regrade.contracts import MAIN_LINEAGE, Digest, Name
from regrade.tasks import load_pack
from services.kit.http.params import RequestParams
from services.kit.settings import BaseUrls, BearerKey, ServiceSettings, ServiceUrl
from services.kit.store.keys import LineageKey


class MetaRewardSettings(ServiceSettings):
    """Settings of the meta-reward service: triggers, costs, gate, audit, archive."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_META_",
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_prog_name="services.meta_reward",
        use_attribute_docstrings=True,
    )

    port: int = Field(8_701, ge=0, le=65_535)
    """Port to listen on; 0 takes a free one."""
    reward_url: ServiceUrl = "http://127.0.0.1:8700"
    """Base URL of the reward service."""
    reward_key: BearerKey = SecretStr("")
    """API key for the reward service."""
    meta_judge_url: BaseUrls = "http://127.0.0.1:8000"
    """Base URL of the meta-judge, with or without /v1. Several endpoints of one model are separated by commas."""
    meta_judge_model: str = "default"
    """Model name sent to the meta-judge."""
    meta_judge_key: BearerKey = SecretStr("")
    """Bearer key for the meta-judge, if it requires one."""
    meta_judge_params: RequestParams = Field({})
    """Fields added to each request to the meta-judge (JSON object), such as reasoning_effort; null leaves a field out,
    such as max_tokens, temperature or response_format."""
    meta_judge_timeout_s: float = Field(300.0, gt=0)
    """Timeout of one meta-judge call, in seconds."""
    meta_judge_in_flight: int = Field(4, ge=1)
    """Largest number of concurrent meta-judge calls."""
    meta_judge_max_tokens: int = Field(1_024, ge=64)
    """Largest number of tokens in one meta-judge answer."""

    tasks: tuple[Name, ...] = ("essay_writing",)
    """Task packs whose rubrics evolve (JSON list)."""
    strategy: Literal["regrade", "paper"] = "regrade"
    """`paper` runs the paper's procedure for comparison: uniform sample, blind merge, no lint, no gate. Choosing it is
    an operator's override, and each activation is recorded as one."""
    llm_proposer: bool = True
    """Whether the meta-judge proposes candidates. Without it only the check catalogue and pruning do."""
    samples: int = Field(8, ge=1, le=64)
    """Traces the meta-judge analyses in a cycle."""

    poll_s: float = Field(1.0, gt=0)
    """Interval between polls of the trace log, in seconds."""
    lease_ttl_s: float = Field(15.0, ge=0.5)
    """Seconds until the lease of a dead worker expires and another worker takes over."""
    max_window: int = Field(2_048, ge=8)
    """Largest number of traces one cycle consumes."""
    every_traces: int = Field(512, ge=8)
    """New training traces that start a cycle."""
    request_traces: int = Field(32, ge=1)
    """New training traces that a cycle on request needs; never more than `every_traces`. A share measured on 32 traces
    has a standard error of up to 0.09; on a handful, any check seems called for."""
    every_steps: int = Field(0, ge=0)
    """New training steps that start a cycle if they come before `every_traces`; 0 disables this trigger."""
    pack_schedule: bool = False
    """Whether the task pack's number of steps applies where `every_steps` is 0."""
    every_s: float = Field(86_400.0, ge=0)
    """Age in seconds at which a pending trace starts a cycle, however few there are; 0 disables this trigger."""
    alarm_traces: int = Field(64, ge=0)
    """Newest traces on which alarms are evaluated between cycles; 0 evaluates alarms in cycles only."""
    longest_wait: int = Field(8, ge=1)
    """Each cycle that activates nothing doubles the traces and steps the next one needs, up to this factor."""

    gate_originals: int = Field(24, ge=8)
    """Largest number of trusted originals that only the gate sees."""
    gate_batch: int = Field(16, ge=1, le=128)
    """Items in one shadow request to the reward service."""
    gate_alpha: float = Field(0.05, gt=0, lt=0.5)
    """Error level of an activation, shared by all candidates and decisions against one active rubric."""
    gate_margin: float = Field(0.05, ge=0, lt=1)
    """Largest loss of anchor order that counts as non-inferior."""
    gate_calls: int = Field(20_000, ge=1)
    """Judge calls that the candidates of one cycle may use in the gate, counted in the task pack's judge mode. The
    reward service's `task_modes` may override that mode; then the calls made differ from this count."""
    max_llm_criteria: int = Field(8, ge=0)
    """Largest number of LLM criteria in a candidate. Each one costs a judge call per scored item."""
    calibrate: tuple[Name, ...] = ()
    """Tasks whose candidates get an offset (at most 0.1) that keeps the mean reward of trusted originals unchanged
    (JSON list)."""

    audit_share: float = Field(0.0, ge=0, le=1)
    """Share of the training traces that the audit judge scores as well; 0 disables the audit."""
    audit_url: ServiceUrl = ""
    """Base URL of a second reward service whose judge audits. It must serve the same tasks (its `bootstrap_tasks`).
    Empty: the training judge audits."""
    audit_key: BearerKey = SecretStr("")
    """API key for the service at `audit_url`."""
    audit_rubrics: dict[Name, Digest] = Field({})
    """Digest of the fixed audit rubric by task (JSON object); the default is the pack's starting rubric."""
    audit_window: int = Field(32, ge=8)
    """Audited traces in each of the two windows whose means are compared."""

    archive_url: str = Field("", repr=False)
    """Folder, or fsspec URL (s3://bucket/path), to which traces are archived as Parquet before they leave Redis. Empty:
    no trace is removed, and Redis fills up to the reward service's cap."""
    archive_rows: int = Field(4_096, ge=1)
    """Largest number of traces in one archive file."""
    archive_every_s: float = Field(600.0, gt=0)
    """Age in seconds of a trace at which a smaller file is written."""
    archive_keep: int = Field(16_384, ge=0)
    """Newest traces of a task that stay in Redis after they are archived. The watch compares new rewards with them."""

    watch_traces: int = Field(64, ge=8)
    """Traces under a new rubric that the watch waits for before it checks the activation."""
    watch_cooldown_s: float = Field(1_800.0, ge=0)
    """Seconds after an automatic rollback without another one. Operators can always roll back."""

    @property
    def traces_for_request(self) -> int:
        """New training traces that a cycle on request needs."""
        return min(self.request_traces, self.every_traces)

    def steps_for(self, task: str) -> int:
        """New training steps that start a cycle of a task; 0 when steps start none."""
        return self.every_steps or (load_pack(task).every_steps if self.pack_schedule else 0)

    @model_validator(mode="after")
    def _paper_requires_a_meta_judge(self) -> Self:
        if self.strategy == "paper" and not self.llm_proposer:
            raise ValueError("strategy 'paper' proposes with the meta-judge alone: it needs llm_proposer")
        return self


def served_lineages(settings: MetaRewardSettings) -> tuple[LineageKey, ...]:
    """The main lineage of each served task; `lineages.py` adds those of scopes."""
    return tuple(LineageKey(task, MAIN_LINEAGE) for task in settings.tasks)
