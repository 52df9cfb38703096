"""Settings of the reward service: environment variables `REGRADE_REWARD_*`."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from regrade.contracts import Mode, Name
from regrade.tasks import UnknownTaskError, load_pack
from services.kit.http.params import RequestParams
from services.kit.settings import ApiKey, BaseUrls, BearerKey, ServiceSettings

_BYTES_AN_ITEM = 65_536


class Tenant(BaseModel):
    """One caller's keys and its budgets in each replica; null is unlimited.

    A budget of items without one of bytes gets 64 kB an item.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys: tuple[ApiKey, ...] = Field(min_length=1)
    requests_per_minute: float | None = Field(None, gt=0)
    items_per_minute: float | None = Field(None, gt=0)
    bytes_per_minute: float | None = Field(None, gt=0)
    """Of request bodies."""

    @property
    def byte_budget(self) -> float | None:
        """Bytes a minute: as set, else what the budget of items amounts to."""
        if self.bytes_per_minute is not None or self.items_per_minute is None:
            return self.bytes_per_minute
        return self.items_per_minute * _BYTES_AN_ITEM


class RewardSettings(ServiceSettings):
    """The judge engine, its capacity, time limits, the spool, tenants and tracing."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_REWARD_", extra="forbid", frozen=True, cli_kebab_case=True, cli_prog_name="services.reward"
    )

    port: int = Field(8_700, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    judge_url: BaseUrls = Field(
        "http://127.0.0.1:8000",
        description="Base URL of the judge engine, with or without /v1; several engines of one model separated by "
        "commas.",
    )
    judge_model: str = Field(
        "",
        description="Model name sent to the engine; empty: the first it lists. In process: a folder or hub name.",
    )
    judge_key: BearerKey = Field(SecretStr(""), description="Bearer key for the engine, if it needs one.")
    judge_dialect: str = Field(
        "auto",
        description="The engine's API: vllm, sglang, llamacpp or openai; auto probes the engine; vllm-inprocess runs "
        "judge_model inside this service (extra vllm) and ignores judge_url.",
    )
    judge_params: RequestParams = Field(
        {},
        description="Fields added to each request to the engine (JSON object), such as chat_template_kwargs; null "
        "leaves a field out. Part of the judge's identity: other values, other judgements.",
    )
    judge_gpu_memory: float = Field(0.9, gt=0, le=1, description="In process: share of the GPU's memory.")
    judge_context: int = Field(0, ge=0, description="In process: longest conversation in tokens; 0: the model's limit.")
    judge_engine_args: dict[str, Any] = Field(
        {}, description="In process: further engine arguments of vLLM by name (JSON object)."
    )
    judge_batch: int = Field(
        64, ge=1, description="Most conversations in one engine request, if the engine accepts several."
    )
    judge_timeout_s: float = Field(120.0, gt=0, description="Time limit of one engine call, in seconds.")
    judge_retries: int = Field(2, ge=0, le=10, description="Retries of a failed engine call, within a shared budget.")
    judge_in_flight: int = Field(64, ge=1, description="Most conversations in flight with the engine.")
    shadow_in_flight: int = Field(
        0,
        ge=0,
        description="Most conversations in flight for candidate rubrics, while no training is scored; "
        "0: an eighth of judge_in_flight.",
    )
    judge_queue: int = Field(
        4_096, ge=1, description="Most conversations that wait for the engine; more are answered 429."
    )
    judge_criteria_per_call: int = Field(
        1,
        ge=1,
        le=8,
        description="LLM criteria scored in one engine call. A higher number costs less and agrees less with people.",
    )
    task_modes: dict[Name, Mode] = Field(
        {},
        description="Judge mode by task, for requests that name none (JSON object); otherwise the mode of the "
        "task pack.",
    )
    trainer_batch_wait_s: float = Field(
        0.1,
        ge=0,
        le=10,
        description="Seconds for which a sample of a trainer route waits for a batch to fill.",
    )
    rationale_words: int = Field(80, ge=8, le=400, description="Longest rationale of the judge, in words.")
    plan_words: int = Field(120, ge=8, le=600, description="Longest plan of the judge, in words (mode planned).")
    judge_samples: int = Field(
        1,
        ge=1,
        le=8,
        description="Rationales that are sampled for each score, which is their mean; in modes that write one.",
    )
    fence_key: SecretStr = Field(
        SecretStr(""), description="Key of the fences around untrusted text; empty: the replicas share a random one."
    )
    max_completion_chars: int = Field(
        60_000, ge=1, description="A longer completion gets reward 0 and the flag too_long."
    )
    outcome_ttl_s: int = Field(7 * 86_400, ge=60, description="Seconds for which an outcome is stored for retries.")
    judgement_ttl_s: int = Field(86_400, ge=60, description="Seconds for which an engine's answer is cached.")
    trace_cap: int = Field(
        1_000_000,
        ge=1,
        description="Most traces of a task in Redis. More are spooled, or answered 429 without a spool.",
    )
    trace_cap_bytes: int = Field(
        4_000_000_000,
        ge=1,
        description="Most bytes of a task's traces in Redis, as JSON; what trace_cap is for their number. Leave room "
        "for outcomes in Redis's memory.",
    )
    redis_timeout_s: float = Field(
        3.0, gt=0, description="Seconds without an answer after which Redis counts as unavailable."
    )
    active_poll_s: float = Field(5.0, gt=0, description="Seconds between checks of the active rubrics held in memory.")
    spool_dir: str = Field(
        "",
        description="Folder, on a persistent volume, for outcomes and traces that Redis cannot take. Empty: "
        "/score is answered 503 while Redis is unavailable.",
    )
    spool_max_bytes: int = Field(
        1_000_000_000,
        ge=4_096,
        description="Bytes of outcomes and traces that the spool of one replica holds; its SQLite files take up some "
        "15 % more. When it is full, batches are answered 429.",
    )
    spool_max_age_s: int = Field(
        5 * 86_400,
        ge=60,
        description="When the oldest entry in the spool has this age in seconds, the spool takes no more entries; "
        "must be below outcome_ttl_s.",
    )
    spool_fsync: bool = Field(
        True,
        description="Flush a spooled batch to the disk (fsync) before the answer; without, a power cut may lose it.",
    )
    bootstrap_tasks: tuple[Name, ...] = Field(
        (), description="Tasks (JSON list) whose pack's starting rubric is activated at start if no rubric is active."
    )

    trace_url: str = Field(
        "",
        description="OpenTelemetry collector (OTLP over HTTP, such as http://otel:4318; extra otel); empty: no spans.",
    )
    trace_share: float = Field(
        0.01, ge=0, le=1, description="Share of requests traced; a caller's traceparent takes precedence."
    )
    tenants: dict[Name, Tenant] = Field(
        {},
        description='Callers with their own keys, and their budgets in each replica (JSON object): {"team-a": {"keys": '
        '["..."], "requests_per_minute": 600, "items_per_minute": 20000, "bytes_per_minute": 400000000}}; 64 kB an '
        "item where only items are set. Over budget: 429.",
    )

    @property
    def caller_keys(self) -> tuple[SecretStr, ...]:
        """The keys of `api_keys`, `operator_keys` and of tenants."""
        return (*super().caller_keys, *(key for tenant in self.tenants.values() for key in tenant.keys))

    @model_validator(mode="after")
    def _a_key_has_one_owner(self) -> Self:
        keys = [key.get_secret_value() for key in self.caller_keys]
        if self.tenants and len(set(keys)) < len(keys):
            raise ValueError("tenants: a key belongs to one tenant, and is none of api_keys and operator_keys")
        return self

    @field_validator("bootstrap_tasks")
    @classmethod
    def _packs_are_readable(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in tasks:
            try:
                load_pack(task)
            except UnknownTaskError as error:
                raise ValueError(str(error)) from error
        return tasks

    @model_validator(mode="after")
    def _a_model_to_load(self) -> Self:
        if self.judge_dialect == "vllm-inprocess" and not self.judge_model:
            raise ValueError("judge_dialect vllm-inprocess needs judge_model: the folder or hub name of the model")
        if self.judge_dialect == "vllm-inprocess" and self.judge_params:
            raise ValueError("judge_params are for an engine behind judge_url; vllm-inprocess has judge_engine_args")
        return self

    @model_validator(mode="after")
    def _outcomes_outlive_the_spool(self) -> Self:
        """A replay recognises what Redis has already stored by the outcome."""
        if self.spool_dir and self.spool_max_age_s >= self.outcome_ttl_s:
            raise ValueError("spool_max_age_s must be below outcome_ttl_s, or a replay could leave a second trace")
        return self
