"""The contract of `POST /score`: items in, one outcome per item out, always with the same keys."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from regrade.contracts.base import Contract, Count, Digest, Name, Scope, YesNo
from regrade.contracts.rubric import MAIN_LINEAGE, Rubric

MAX_ITEMS = 512
MAX_TEXT = 200_000

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Version = Annotated[int, Strict(), Field(ge=1)]
Scalar = str | int | float | bool | None


class Mode(StrEnum):
    """How the judge reaches a level."""

    EXPECTED = "expected"
    """One constrained token a criterion; the expected level under its probabilities."""
    REASONED = "reasoned"
    """A rationale, then a level."""
    PLANNED = "planned"
    """A plan shared by the group, its execution per completion, then a level."""


class Purpose(StrEnum):
    """Why the items are scored."""

    TRAIN = "train"
    """Feeds a policy update: pinned, traced, evidence for the meta-reward service."""
    EVAL = "eval"
    """Measures a policy: traced, but no evidence."""
    SHADOW = "shadow"
    """Measures a rubric: neither pinned nor traced, and yields to the others."""


class OnOutage(StrEnum):
    """What a caller wants while the service's Redis is away."""

    SERVE = "serve"
    """Go on: the answer is `degraded`, items whose pin is not known are flagged `unpinned`."""
    REFUSE = "refuse"
    """Be answered 503, so that no item is scored outside its pin."""


class Flag(StrEnum):
    """What was noticed about an item, beside its score. Evidence only: no flag changes a reward by itself."""

    EMPTY = "empty"
    """Guarded: no text at all."""
    PUNCTUATION_ONLY = "punctuation_only"
    """Guarded: no letter and no digit."""
    CONTROL_TOKENS_ONLY = "control_tokens_only"
    """Guarded: nothing but control tokens."""
    NO_CONTENT = "no_content"
    """Guarded: only an opener such as "Solution:", which announces an answer and gives none."""
    TOO_LONG = "too_long"
    """Guarded: longer than the service takes."""
    CONTROL_TOKENS = "control_tokens"
    """Held a control token of some chat template."""
    HIDDEN_UNICODE = "hidden_unicode"
    """Held invisible or direction-changing characters."""
    FLOOD = "flood"
    """Held an absurd run of white space or of combining marks."""
    FENCE_SPOOF = "fence_spoof"
    """Held what looks like the end of the material to be graded."""
    ROLE_SPOOF = "role_spoof"
    """Pretended to be another turn of the conversation."""
    RUBRIC_SPOOF = "rubric_spoof"
    """Held a rubric of its own."""
    SCORE_SMUGGLE = "score_smuggle"
    """Held a finished verdict."""
    INSTRUCTION = "instruction"
    """Spoke to whoever grades."""
    TRUNCATED = "truncated"
    """The caller said that it was cut at the token limit."""
    VETOED = "vetoed"
    """A veto fired."""
    UNPINNED = "unpinned"
    """Scored while Redis was away, under a rubric that other replicas may not have used for this pin."""


class ErrorCode(StrEnum):
    """Why an item has no reward."""

    JUDGE_UNAVAILABLE = "judge_unavailable"
    """The judge engine did not answer within its retry budget."""
    JUDGE_MALFORMED = "judge_malformed"
    """The judge engine answered with something that is no distribution over levels."""
    JUDGE_REFUSED = "judge_refused"
    """The judge engine refused the request, for example as too long for its context."""
    CHECK_FAILED = "check_failed"
    """A check could not be decided, for example for want of a reference or of time."""


class Message(Contract):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text


Conversation = Annotated[tuple[Message, ...], Field(min_length=1, max_length=256)]


def as_text(content: "str | tuple[Message, ...]") -> str:
    """A prompt or completion as one text: the turns of a conversation, in order, a blank line between them."""
    return content if isinstance(content, str) else "\n\n".join(message.content for message in content)


class ScoreItem(Contract):
    """One completion to be scored. `group` names the completions whose rewards are compared."""

    id: Label | None = None
    prompt: Text | Conversation
    completion: Text | Conversation
    group: Label | None = None
    reference: Text | None = None
    scope: Scope | None = None
    truncated: YesNo = False
    metadata: dict[Label, Scalar] = Field(default_factory=dict, max_length=32)


class ScoreRequest(Contract):
    """A batch of completions of one task.

    `rubric` names the one to score by (a version, a digest, or a whole candidate); left out, it is
    the pinned one, else the active one. `mode` left out is the one set for the task. `on_outage`
    says what is wanted while Redis is away.
    """

    task: Name
    run: Name | None = None
    step: Count | None = Field(default=None, ge=0, le=2**53)
    items: tuple[ScoreItem, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    rubric: Version | Digest | Rubric | None = None
    lineage: Name = MAIN_LINEAGE
    mode: Mode | None = None
    purpose: Purpose = Purpose.TRAIN
    fresh: YesNo = False
    explain: YesNo = False
    on_outage: OnOutage = OnOutage.SERVE

    @model_validator(mode="after")
    def _a_step_is_a_runs(self) -> Self:
        if self.step is not None and self.run is None:
            raise ValueError("a step needs its run: two trainers' steps of one number would share a rubric")
        return self


class Outcome(BaseModel):
    """Base of the response models: frozen, but lenient, so that an older client reads a newer service."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class RubricRef(Outcome):
    """Which rubric gave a reward."""

    lineage: str
    scope: str | None
    version: int | None
    digest: str


class CriterionScore(Outcome):
    """A criterion's score in [0, 1] (level / 5, or the check's value), or null where it was not scored."""

    id: str
    score: float | None = Field(ge=0.0, le=1.0)
    confidence: float | None = Field(ge=0.0, le=1.0)
    rationale: str | None = None


class ItemError(Outcome):
    """Why an item has no reward, and whether asking again may help."""

    code: ErrorCode
    message: str
    retryable: bool


class ItemResult(Outcome):
    """The outcome of one item: a reward in [0, 1], or null with an error; never both, never neither."""

    id: str
    reward: float | None = Field(ge=0.0, le=1.0)
    raw: float | None
    rubric: RubricRef
    criteria: tuple[CriterionScore, ...]
    flags: tuple[str, ...]
    error: ItemError | None
    trace_id: str
    cached: bool


class Usage(Outcome):
    """What the judge engine was billed for this request."""

    judge_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def total(cls, usages: "Iterable[Usage]") -> "Usage":
        """The sum of several bills."""
        told = list(usages)
        return cls(
            judge_calls=sum(usage.judge_calls for usage in told),
            prompt_tokens=sum(usage.prompt_tokens for usage in told),
            cached_tokens=sum(usage.cached_tokens for usage in told),
            completion_tokens=sum(usage.completion_tokens for usage in told),
        )


class ScoreResponse(Outcome):
    """One result per item, in request order.

    `degraded`: Redis was away, or its trace log full, so that something of this answer rests on one replica alone.
    """

    results: tuple[ItemResult, ...]
    usage: Usage
    degraded: bool


class ErrorBody(Outcome):
    """The body of every answer that is not 2xx."""

    error: str
    detail: str
