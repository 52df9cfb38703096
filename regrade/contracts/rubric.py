"""The rubric that a judge scores by. Immutable; its digest is its identity, its version a label (I1)."""

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, computed_field, model_validator

from regrade.contracts.base import Contract, Count, Digest, Name, Number, Scope, TolerantModel, sha256_of
from regrade.contracts.checks import Check

TOP_LEVEL = 5
LEVELS = tuple(range(TOP_LEVEL + 1))
MAX_OFFSET = 0.1
MAX_CRITERIA = 32
MAIN_LINEAGE = "main"

_BREAKS = "\u0000-\u001f\u007f-\u009f\u2028\u2029"
_BREAK = re.compile(f"[{_BREAKS}]")
_BREAK_BUT_LF = re.compile(f"(?!\n)[{_BREAKS}]")

CriterionText = Annotated[str, Field(min_length=1, max_length=2_000)]


class Role(StrEnum):
    """What a criterion does to the reward."""

    AWARD = "award"
    """Describes something wanted: adds weight times score."""
    DEDUCT = "deduct"
    """Describes a fault: subtracts weight times score (for a check, 1 minus its value)."""
    VETO = "veto"
    """Describes a fault: makes the reward 0 if its score (for a check, 1 minus its value) reaches the threshold."""


class _Criterion(Contract):
    id: Name
    """Name of the criterion in results and traces; unique within the rubric."""
    name: Annotated[str, Field(min_length=1, max_length=120)]
    """Title for the judge and for people."""
    role: Role = Role.AWARD
    """Effect on the reward: award adds, deduct subtracts, veto makes the reward 0."""
    weight: Number = Field(default=1.0, ge=0.0, le=100.0)
    """Weight among the criteria of its role; unused for a veto."""
    threshold: Number | None = Field(default=None, gt=0.0, le=1.0)
    """Score at which a veto makes the reward 0; only a veto has one."""

    @model_validator(mode="after")
    def _check_threshold(self) -> Self:
        if (self.role is Role.VETO) != (self.threshold is not None):
            raise ValueError(f"criterion {self.id!r}: a veto needs a threshold in (0, 1], other roles take none")
        return self


class LlmCriterion(_Criterion):
    """A criterion that the judge scores with a level from 0 to 5; its score is level / 5."""

    kind: Literal["llm"]
    """The judge scores it."""
    description: CriterionText
    """What the judge looks for."""
    levels: tuple[CriterionText, CriterionText, CriterionText, CriterionText, CriterionText, CriterionText]
    """What each level means, from 0 to 5."""


class CheckCriterion(_Criterion):
    """A criterion that a check of the catalogue scores, without a judge call."""

    kind: Literal["check"]
    """A check scores it."""
    check: Check
    """The check and its parameters."""


Criterion = Annotated[LlmCriterion | CheckCriterion, Field(discriminator="kind")]


class Rubric(Contract):
    """Criteria with weights, as stored and served.

    `digest` covers what decides a reward (preamble, criteria, offset), not lineage, version or author. A `digest` in
    the input must match the content. Raises `pydantic.ValidationError`.
    """

    lineage: Name = MAIN_LINEAGE
    """Lineage it belongs to."""
    scope: Scope | None = None
    """Scope within the task; null for the whole task."""
    version: Count | None = Field(default=None, ge=1)
    """Number within its lineage; null until it has been active."""
    parent: Digest | None = None
    """Digest of the rubric it was derived from."""
    preamble: str = Field(default="", max_length=4_000)
    """Text before the criteria in the judge's prompt."""
    criteria: tuple[Criterion, ...] = Field(min_length=1, max_length=MAX_CRITERIA)
    """The criteria, in the order of the prompt."""
    offset: Number = Field(default=0.0, ge=-MAX_OFFSET, le=MAX_OFFSET)
    """Constant added to the raw reward before it is clipped to [0, 1]; set by calibration."""
    created_by: str = Field(default="", max_length=128)
    """Author: a proposer or a person."""
    rationale: str = Field(default="", max_length=4_000)
    """Why it was written."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of preamble, criteria and offset.

        Fields at their default are left out, so that adding a field with a default changes no existing digest.
        """
        return sha256_of(
            self.model_dump(mode="json", include={"preamble", "criteria", "offset"}, exclude_defaults=True)
        )

    @property
    def llm_criteria(self) -> tuple[LlmCriterion, ...]:
        """The criteria that the judge scores, in order."""
        return tuple(c for c in self.criteria if isinstance(c, LlmCriterion))

    @property
    def check_criteria(self) -> tuple[CheckCriterion, ...]:
        """The criteria that a check scores, in order."""
        return tuple(c for c in self.criteria if isinstance(c, CheckCriterion))

    @model_validator(mode="wrap")
    @classmethod
    def _check_digest(cls, value: Any, handler: Callable[[Any], Self]) -> Self:
        if not isinstance(value, Mapping) or "digest" not in value:
            return handler(value)
        rubric = handler({k: v for k, v in value.items() if k != "digest"})
        if value["digest"] != rubric.digest:
            raise ValueError(
                f"digest does not match the rubric's content, whose digest is {rubric.digest}: "
                "leave the digest out of a rubric that was edited"
            )
        return rubric

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
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
        """The sum of the weights of the criteria with this role."""
        return sum(c.weight for c in self.criteria if c.role is role)


def unbroken(text: str) -> str:
    """The text on one line: what could end it, and the white space around that, becomes one blank."""
    return " ".join(_BREAK.sub(" ", text).split()) if _BREAK.search(text) else text


def unbroken_rubric(rubric: Rubric) -> Rubric:
    """The rubric with every text of its criteria on one line, as the judge sees it; itself where they are."""
    texts = [text for _, text in _criterion_texts(rubric)]
    if texts == [unbroken(text) for text in texts]:
        return rubric
    return rubric.model_copy(update={"criteria": tuple(map(_unbroken_criterion, rubric.criteria))})


def _unbroken_criterion(criterion: Criterion) -> Criterion:
    update: dict[str, Any] = {"name": unbroken(criterion.name)}
    if isinstance(criterion, LlmCriterion):
        update["description"] = unbroken(criterion.description)
        update["levels"] = tuple(map(unbroken, criterion.levels))
    return criterion.model_copy(update=update)


def check_unbroken(rubric: Rubric) -> Rubric:
    """The rubric, which is refused if a text could forge structure in the judge's prompt. Raises `ValueError`.

    Only new rubrics are checked: a stored one stays readable, and the judge sees its texts on one line.
    """
    for name, text in _criterion_texts(rubric):
        if match := _BREAK.search(text):
            raise ValueError(
                f"{name} holds {match.group()!r} at character {match.start()}: line ends and control characters could "
                "pass for the rubric's own structure in the judge's prompt; write it on one line"
            )
    if match := _BREAK_BUT_LF.search(rubric.preamble):
        raise ValueError(
            f"preamble holds {match.group()!r} at character {match.start()}: of control characters it may hold "
            "line feeds alone; remove it"
        )
    return rubric


def _criterion_texts(rubric: Rubric) -> Iterator[tuple[str, str]]:
    """The texts of criteria that reach the judge, each with a description of where it stands."""
    for criterion in rubric.criteria:
        yield f"criterion {criterion.id!r}: name", criterion.name
        if isinstance(criterion, LlmCriterion):
            yield f"criterion {criterion.id!r}: description", criterion.description
            for level, text in enumerate(criterion.levels):
                yield f"criterion {criterion.id!r}: level {level}", text


NewRubric = Annotated[Rubric, AfterValidator(check_unbroken)]
"""A rubric that is about to be stored or tried."""


class PutRubric(Contract):
    """An operator's request to activate a rubric without the gate."""

    rubric: NewRubric
    """The rubric to activate."""
    by: str = Field(min_length=1, max_length=128)
    """Who activates it."""
    reason: str = Field(min_length=1, max_length=2_000)
    """Why it is activated."""
    expected: Digest | None = None
    """Digest that must be active now; 409 if another one is. Null skips this check."""


class ActiveRubric(TolerantModel):
    """The rubric that is active after the request."""

    digest: Digest
    """Its digest."""
    version: int
    """Its version within the lineage."""
