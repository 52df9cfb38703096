"""Settings of the reward service: environment variables `REGRADE_REWARD_*`."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from regrade.contracts import Mode, Name
from services.kit.settings import BaseUrls, ServiceSettings
from services.reward.api.quotas import Tenant
from services.reward.judge.engine.discovery import DIALECTS


def _known_dialect(name: str) -> str:
    known = ("auto", *DIALECTS, "vllm-inprocess")
    if name not in known:
        raise ValueError(f"unknown judge_dialect {name!r}; choose one of {', '.join(known)}")
    return name


class RewardSettings(ServiceSettings):
    """How the judge is reached and how much is done at once."""

    model_config = SettingsConfigDict(
        env_prefix="REGRADE_REWARD_", extra="forbid", frozen=True, cli_kebab_case=True, cli_prog_name="services.reward"
    )

    judge_url: BaseUrls = Field(
        "http://127.0.0.1:8000",
        description="Base URL of the judge engine, without /v1; several engines of one model: separated by commas.",
    )
    judge_model: str = Field(
        "",
        description="Model name sent to the engine; empty takes the first it lists. In process: folder or hub name.",
    )
    judge_key: SecretStr = Field(SecretStr(""), description="Bearer key for the engine, if it wants one.")
    judge_dialect: Annotated[str, AfterValidator(_known_dialect)] = Field(
        "auto",
        description="The engine's API: vllm, sglang, llamacpp or openai; auto probes the engine; vllm-inprocess runs "
        "judge_model inside this service (extra vllm) and ignores judge_url.",
    )
    judge_gpu_memory: float = Field(0.9, gt=0, le=1, description="Share of the GPU's memory, in process.")
    judge_context: int = Field(0, ge=0, description="Longest conversation in tokens, in process; 0: the model's own.")
    judge_engine_args: dict[str, Any] = Field(
        {}, description="Further engine arguments of vLLM by name, in process (JSON object)."
    )
    judge_batch: int = Field(
        64, ge=1, description="Conversations in one engine request, where the engine takes several; 1: never several."
    )
    judge_timeout_s: float = Field(120.0, gt=0, description="Time limit of one engine call.")
    judge_retries: int = Field(2, ge=0, le=10, description="Further tries of a failed engine call, within a budget.")
    judge_in_flight: int = Field(64, ge=1, description="Conversations with the engine at once.")
    shadow_in_flight: int = Field(
        0, ge=0, description="Of these, for candidates while no training is scored; 0: an eighth, and one at least."
    )
    shadow_share: float = Field(
        0.02, gt=0, le=1, description="While training is scored: candidates' conversations for each of training's."
    )
    shadow_quiet_s: float = Field(
        0.5, ge=0, description="So long behind its last conversation training is taken to go on."
    )
    judge_queue: int = Field(4_096, ge=1, description="Conversations that may wait for the engine; beyond that: 429.")
    judge_criteria_per_call: int = Field(
        1, ge=1, le=8, description="LLM criteria scored in one engine call. More cost less and agree less with people."
    )
    task_modes: dict[Name, Mode] = Field(
        {}, description='Judge mode by task (JSON object), where the request names none; else "expected".'
    )
    trainer_batch: int = Field(
        64, ge=1, le=512, description="Samples of the trainers' own routes that are scored as one batch, at most."
    )
    trainer_batch_wait_s: float = Field(
        0.1, ge=0, le=10, description="How long such a sample waits for others at most; 0: for those of this moment."
    )
    rationale_words: int = Field(80, ge=8, le=400, description="Longest rationale, in words.")
    plan_words: int = Field(120, ge=8, le=600, description="Longest plan, in words.")
    judge_samples: int = Field(1, ge=1, le=8, description="Rationales drawn and averaged, in modes that write one.")
    judge_temperature: float = Field(
        0.7, gt=0, le=2, description="Temperature of the rationales when several are drawn."
    )
    fence_key: SecretStr = Field(
        SecretStr(""), description="Key of the prompt fences; empty shares one made up by the first replica."
    )
    max_completion_chars: int = Field(60_000, ge=1, description="A longer completion is refused by the guards.")
    outcome_ttl_s: int = Field(7 * 86_400, ge=60, description="How long a retry is answered from the stored outcome.")
    judgement_ttl_s: int = Field(86_400, ge=60, description="How long an engine's answer is reused.")
    trace_cap: int = Field(
        1_000_000, ge=1, description="Traces a task may hold in Redis; at the cap they are spooled, or answered 429."
    )
    redis_timeout_s: float = Field(
        3.0, gt=0, description="How long a batch waits for one answer of Redis before Redis is taken to be away."
    )
    active_poll_s: float = Field(5.0, gt=0, description="How often the active rubrics known in process are checked.")
    spool_dir: str = Field(
        "",
        description="Folder on a lasting volume for what Redis cannot take; empty: while Redis is away, /score is 503.",
    )
    spool_max_bytes: int = Field(
        1_000_000_000,
        ge=4_096,
        description="Outcomes and traces that one replica's spool holds; its SQLite files "
        "take up some 15 % more. A batch beyond it is answered 429.",
    )
    spool_max_age_s: int = Field(
        5 * 86_400, ge=60, description="No more is spooled beside an entry of this age; below outcome_ttl_s."
    )
    spool_fsync: bool = Field(
        True, description="Have a batch on the disk itself before it is answered; without, a power cut may lose it."
    )
    bootstrap_tasks: tuple[Name, ...] = Field(
        (), description="Task packs whose starting rubric is put at start where none is active (JSON list)."
    )

    trace_url: str = Field(
        "",
        description="OpenTelemetry collector (OTLP over HTTP, such as http://otel:4318; extra otel); empty: no spans.",
    )
    trace_share: float = Field(
        0.01, ge=0, le=1, description="Share of requests traced; a caller's traceparent goes before it."
    )
    tenants: dict[Name, Tenant] = Field(
        {},
        description='Callers with keys and budgets of their own, in each replica (JSON object): {"team-a": {"keys": '
        '["..."], "requests_per_minute": 600, "items_per_minute": 20000}}. Over budget: 429.',
    )

    @property
    def caller_keys(self) -> tuple[SecretStr, ...]:
        """Tenants' keys, too."""
        return (*super().caller_keys, *(key for tenant in self.tenants.values() for key in tenant.keys))

    @model_validator(mode="after")
    def _a_key_has_one_owner(self) -> Self:
        keys = [key.get_secret_value() for key in self.caller_keys]
        if self.tenants and len(set(keys)) < len(keys):
            raise ValueError("tenants: a key belongs to one tenant, and is none of api_keys and operator_keys")
        return self

    @model_validator(mode="after")
    def _a_model_to_load(self) -> Self:
        if self.judge_dialect == "vllm-inprocess" and not self.judge_model:
            raise ValueError("judge_dialect vllm-inprocess needs judge_model: the folder or hub name of the model")
        return self

    @model_validator(mode="after")
    def _outcomes_outlive_the_spool(self) -> Self:
        """A replay finds out by the stored outcome what Redis had already taken."""
        if self.spool_dir and self.spool_max_age_s >= self.outcome_ttl_s:
            raise ValueError("spool_max_age_s must be below outcome_ttl_s, or a replay could leave a second trace")
        return self
