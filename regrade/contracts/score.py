"""The contract of `POST /score`: items in, one outcome an item out, in the same order and always with the same keys."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self, assert_never

from pydantic import BeforeValidator, Field, Strict, model_validator

from regrade.contracts.base import Contract, Count, Digest, Name, Scope, TolerantModel, YesNo
from regrade.contracts.content import MAX_TEXT, MAX_TURNS, read_completion, read_prompt, read_reference
from regrade.contracts.rubric import MAIN_LINEAGE, Rubric, check_unbroken

MAX_ITEMS = 512
MAX_BODY_BYTES = 8_000_000
"""Of an encoded request, by the service's default; the client sends larger batches in several requests."""

ItemText = Annotated[str, Field(max_length=MAX_TEXT)]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Version = Annotated[int, Strict(), Field(ge=1)]
Scalar = Annotated[str, Field(max_length=1_024)] | int | float | bool | None
"""A value of `metadata`; bounded, since it is stored with every trace."""


class Mode(StrEnum):
    """How the judge reaches a level."""

    EXPECTED = "expected"
    """One constrained token a criterion: the expected level under its probabilities."""
    REASONED = "reasoned"
    """A rationale, then a level."""
    PLANNED = "planned"
    """A plan shared by the group, its execution for each completion, then a level."""

    def judge_calls(self, llm_criteria: int) -> int:
        """Most judge calls for one item under a rubric with that many LLM criteria.

        For one criterion a call and one sample, which are the defaults; stored and shared answers cost less.
        """
        if llm_criteria == 0:
            return 0
        match self:
            case Mode.EXPECTED:
                return llm_criteria
            case Mode.REASONED:
                return 2 * llm_criteria
            case Mode.PLANNED:
                return 2 + llm_criteria
            case _:
                assert_never(self)


class Purpose(StrEnum):
    """Why the items are scored."""

    TRAIN = "train"
    """A policy update: pinned, traced, and evidence for the meta-reward service."""
    EVAL = "eval"
    """An evaluation of the policy: traced, but no evidence."""
    SHADOW = "shadow"
    """An evaluation of a rubric: neither pinned nor traced, at a lower priority."""


class OnOutage(StrEnum):
    """What the service does while its Redis is unavailable."""

    SERVE = "serve"
    """Score; the response is `degraded`, and items whose pin is unknown are flagged `unpinned`."""
    REFUSE = "refuse"
    """Respond with 503, so that no item is scored outside its pin."""


class Flag(StrEnum):
    """A finding about an item, beside its score.

    The guards' flags and `vetoed` accompany a reward of 0; no other flag changes a reward.
    """

    EMPTY = "empty"
    """Stopped by a guard: no text."""
    PUNCTUATION_ONLY = "punctuation_only"
    """Stopped by a guard: no letter and no digit."""
    CONTROL_TOKENS_ONLY = "control_tokens_only"
    """Stopped by a guard: only control tokens."""
    NO_CONTENT = "no_content"
    """Stopped by a guard: only an opener such as "Solution:" without an answer."""
    TOO_LONG = "too_long"
    """Stopped by a guard: longer than the service accepts."""
    CONTROL_TOKENS = "control_tokens"
    """Contains a control token of a chat template."""
    HIDDEN_UNICODE = "hidden_unicode"
    """Contains invisible or direction-changing characters."""
    FLOOD = "flood"
    """Contains an absurd run of white space or of combining marks."""
    FENCE_SPOOF = "fence_spoof"
    """Contains an imitation of the end of the fenced text."""
    ROLE_SPOOF = "role_spoof"
    """Imitates another turn of the conversation."""
    RUBRIC_SPOOF = "rubric_spoof"
    """Contains a rubric."""
    SCORE_SMUGGLE = "score_smuggle"
    """Contains a score for itself."""
    INSTRUCTION = "instruction"
    """Addresses the judge."""
    TRUNCATED = "truncated"
    """The caller marked it as cut off at the token limit."""
    VETOED = "vetoed"
    """A veto made its reward 0."""
    UNPINNED = "unpinned"
    """Scored during a Redis outage by a rubric that other replicas may not have used for this pin."""


class ErrorCode(StrEnum):
    """Why an item has no reward."""

    JUDGE_UNAVAILABLE = "judge_unavailable"
    """The judge did not respond within the retry budget."""
    JUDGE_MALFORMED = "judge_malformed"
    """The judge's response is no distribution over levels."""
    JUDGE_REFUSED = "judge_refused"
    """The judge refused the request, for example because it exceeds its context length."""
    CHECK_FAILED = "check_failed"
    """A check could not be evaluated, for example because of a missing reference or a timeout."""
    INVALID_ITEM = "invalid_item"
    """The item's own content cannot be scored: no text, half of a surrogate pair, too many turns, too large."""


class Message(Contract):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who wrote it."""
    content: ItemText
    """Its text."""


Conversation = Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_TURNS)]


def as_text(content: "str | tuple[Message, ...]") -> str:
    """A prompt or completion as one text; the turns of a conversation are joined by blank lines."""
    return content if isinstance(content, str) else "\n\n".join(message.content for message in content)


class ScoreItem(Contract):
    """One completion to score.

    Prompt and completion may also be messages in the shapes of other libraries, and the reference a number: see
    `regrade.contracts.content`. A completion of `MAX_TEXT` characters or more is `too_long`.
    """

    id: Label | None = None
    """Names the item in the response and across retries; the client generates one if it is missing."""
    prompt: Annotated[ItemText | Conversation, BeforeValidator(read_prompt)]
    """What the policy was asked: a text or a conversation."""
    completion: Annotated[ItemText | Conversation, BeforeValidator(read_completion)]
    """What the policy wrote: a text or the turns of a conversation."""
    group: Label | None = None
    """Names the completions whose rewards are compared; default: a hash of the prompt."""
    reference: Annotated[ItemText | None, BeforeValidator(read_reference)] = None
    """The correct or an exemplary answer, for checks and for the judge."""
    scope: Scope | None = None
    """Subdivision of the task, e.g. `algebra/3`; one without a rubric uses that of its parent, then of the task."""
    truncated: YesNo = False
    """The completion was cut off at the token limit."""
    metadata: dict[Label, Scalar] = Field(default_factory=dict, max_length=32)
    """The caller's own labels, kept in the trace: 32 at most, texts of 1,024 characters. No effect on the score."""


class ScoreRequest(Contract):
    """A batch of completions of one task."""

    task: Name
    """The task, e.g. `essay_writing`."""
    run: Name | None = None
    """Training run; with `step` it pins one rubric for all items of the step."""
    step: Count | None = Field(default=None, ge=0, le=2**53)
    """Optimizer step of `run`. Without a step, each group is pinned."""
    items: tuple[ScoreItem, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    """The completions."""
    rubric: Version | Digest | Rubric | None = None
    """A version, a digest or a whole candidate to score by; default: the pinned, else the active rubric."""
    lineage: Name = MAIN_LINEAGE
    """Lineage of the rubric."""
    mode: Mode | None = None
    """How the judge reaches a level; default: the task's mode."""
    purpose: Purpose = Purpose.TRAIN
    """`train` is pinned, traced and evidence; `eval` is traced; `shadow` tries a rubric and leaves nothing."""
    fresh: YesNo = False
    """Judge again instead of using cached judgements."""
    explain: YesNo = False
    """Include the judge's rationales in the response."""
    on_outage: OnOutage = OnOutage.SERVE
    """While Redis is unavailable: `serve` scores and marks the response `degraded`, `refuse` responds with 503."""

    @model_validator(mode="after")
    def _check_step(self) -> Self:
        if self.step is not None and self.run is None:
            raise ValueError("a step needs its run: two trainers' steps of one number would share a rubric")
        return self

    @model_validator(mode="after")
    def _check_rubric(self) -> Self:
        if isinstance(self.rubric, Rubric):
            check_unbroken(self.rubric)
        return self


class RubricRef(TolerantModel):
    """The rubric behind a reward."""

    lineage: str
    """Its lineage."""
    scope: str | None
    """Its scope; null for the task's rubric."""
    version: int | None
    """Its version; null for one that was never active."""
    digest: str
    """Its digest; empty where the client refused the item without asking the service."""


class CriterionScore(TolerantModel):
    """The score of one criterion."""

    id: str
    """Id of the criterion."""
    score: float | None = Field(ge=0.0, le=1.0)
    """Score in [0, 1]: level / 5, or the check's value; null if it could not be scored."""
    confidence: float | None = Field(ge=0.0, le=1.0)
    """Confidence in [0, 1], from the spread of the judge's probabilities; 1 for a check."""
    rationale: str | None = None
    """The judge's rationale, with `explain` and a mode that writes one."""


class ItemError(TolerantModel):
    """Why an item has no reward."""

    code: ErrorCode
    """Kind of the error."""
    message: str
    """The error in words."""
    retryable: bool
    """Whether a retry may succeed."""


class ItemResult(TolerantModel):
    """The outcome of one item: either a reward or an error."""

    id: str
    """The item's id."""
    reward: float | None = Field(ge=0.0, le=1.0)
    """The reward in [0, 1]; null with an error."""
    raw: float | None
    """The weighted sum before offset, clipping and vetoes; null with an error."""
    rubric: RubricRef
    """The rubric it was scored by."""
    criteria: tuple[CriterionScore, ...]
    """Scores in the order of the rubric; also present with an error, as far as they are known."""
    flags: tuple[str, ...]
    """Findings about the item, see `Flag`."""
    error: ItemError | None
    """Why there is no reward; null with a reward."""
    trace_id: str
    """Id of its trace."""
    cached: bool
    """The outcome was stored by an earlier request; nothing was billed."""


class Usage(TolerantModel):
    """What the judge was billed for."""

    judge_calls: int = 0
    """Requests to the judge's model."""
    prompt_tokens: int = 0
    """Tokens of the prompts."""
    cached_tokens: int = 0
    """Prompt tokens that the engine took from its prefix cache."""
    completion_tokens: int = 0
    """Tokens that the judge wrote."""

    @classmethod
    def total(cls, usages: "Iterable[Usage]") -> "Usage":
        """The sum of each field."""
        usages = list(usages)
        return cls(**{name: sum(getattr(usage, name) for usage in usages) for name in cls.model_fields})


class ScoreResponse(TolerantModel):
    """One result an item, in the order of the request."""

    results: tuple[ItemResult, ...]
    """The outcomes."""
    usage: Usage
    """What the whole request was billed."""
    degraded: bool
    """Redis was unavailable or its trace log full, so part of the response rests on one replica alone."""


class ErrorBody(TolerantModel):
    """The body of every response that is not 2xx."""

    error: str
    """Code of the error."""
    detail: str
    """The error in words."""
