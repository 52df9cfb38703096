"""The rubric: what a judge scores by. Immutable; its digest is its identity, its version a label (I1)."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, computed_field, model_validator

from regrade.contracts.base import Contract, Count, Digest, Name, Number, Scope, sha256_of
from regrade.contracts.checks import Check

TOP_LEVEL = 5
LEVELS = tuple(range(TOP_LEVEL + 1))
MAX_OFFSET = 0.1
MAX_CRITERIA = 32
MAIN_LINEAGE = "main"

Text = Annotated[str, Field(min_length=1, max_length=2_000)]


class Role(StrEnum):
    """What a criterion does to the reward."""

    AWARD = "award"
    """Describes something wanted; adds weight times score."""
    DEDUCT = "deduct"
    """Describes a fault; subtracts weight times score. A check counts its violation."""
    VETO = "veto"
    """Describes a fault that makes the reward 0 once its score reaches the threshold."""


class _Criterion(Contract):
    id: Name
    name: Annotated[str, Field(min_length=1, max_length=120)]
    role: Role = Role.AWARD
    weight: Number = Field(default=1.0, ge=0.0, le=100.0)
    threshold: Number | None = Field(default=None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _threshold_is_a_vetos(self) -> Self:
        if (self.role is Role.VETO) != (self.threshold is not None):
            raise ValueError(f"criterion {self.id!r}: a veto needs a threshold in (0, 1], other roles take none")
        return self


class LlmCriterion(_Criterion):
    """A criterion the judge scores: level 0..5, each described; its score is level / 5."""

    kind: Literal["llm"]
    description: Text
    levels: tuple[Text, Text, Text, Text, Text, Text]


class CheckCriterion(_Criterion):
    """A criterion that a predicate of the check catalogue scores, without a judge call."""

    kind: Literal["check"]
    check: Check


Criterion = Annotated[LlmCriterion | CheckCriterion, Field(discriminator="kind")]


class Rubric(Contract):
    """Criteria with weights, as stored and served.

    `digest` covers what decides a reward (preamble, criteria, offset), not where the rubric stands
    or who wrote it; `version` is None until the rubric has been active in its lineage. A `digest`
    given on input must be the content's own. Raises `pydantic.ValidationError`.
    """

    lineage: Name = MAIN_LINEAGE
    scope: Scope | None = None
    version: Count | None = Field(default=None, ge=1)
    parent: Digest | None = None
    preamble: str = Field(default="", max_length=4_000)
    criteria: tuple[Criterion, ...] = Field(min_length=1, max_length=MAX_CRITERIA)
    offset: Number = Field(default=0.0, ge=-MAX_OFFSET, le=MAX_OFFSET)
    created_by: str = Field(default="", max_length=128)
    rationale: str = Field(default="", max_length=4_000)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the content. Fields at their default are left out of it,
        so that a field added later, with a default, changes no existing digest."""
        return sha256_of(
            self.model_dump(mode="json", include={"preamble", "criteria", "offset"}, exclude_defaults=True)
        )

    @property
    def llm_criteria(self) -> tuple[LlmCriterion, ...]:
        """The criteria that cost a judge call each, in order."""
        return tuple(c for c in self.criteria if isinstance(c, LlmCriterion))

    @property
    def check_criteria(self) -> tuple[CheckCriterion, ...]:
        """The criteria that cost no judge call, in order."""
        return tuple(c for c in self.criteria if isinstance(c, CheckCriterion))

    @model_validator(mode="wrap")
    @classmethod
    def _digest_is_its_own(cls, value: Any, handler: Callable[[Any], Self]) -> Self:
        if not isinstance(value, Mapping) or "digest" not in value:
            return handler(value)
        rubric = handler({k: v for k, v in value.items() if k != "digest"})
        if value["digest"] != rubric.digest:
            raise ValueError("digest does not match the rubric's content")
        return rubric

    @model_validator(mode="after")
    def _weights_hold(self) -> Self:
        ids = [criterion.id for criterion in self.criteria]
        if len(set(ids)) < len(ids):
            raise ValueError("criterion ids must be unique within a rubric")
        award = self.total_weight(Role.AWARD)
        if award <= 0.0:
            raise ValueError("a rubric needs at least one award criterion with a weight above 0")
        if self.total_weight(Role.DEDUCT) > award:
            raise ValueError("the deduct weights may not exceed the award weights")
        return self

    def total_weight(self, role: Role) -> float:
        """The sum of the weights of one role's criteria."""
        return sum(c.weight for c in self.criteria if c.role is role)


class PutRubric(Contract):
    """A rubric an operator makes active, who does it and why.

    `expected` is the digest the operator believes to be active; another one there is a conflict.
    """

    rubric: Rubric
    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)
    expected: Digest | None = None


class PutRubricAnswer(Contract):
    """What became active."""

    digest: Digest
    version: int
