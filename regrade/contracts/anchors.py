"""Anchors from users: pairs of completions that a person has ranked."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from regrade.contracts.base import Contract, TolerantModel, sha256_of

MAX_LABELLED = 512

AnchorText = Annotated[str, Field(min_length=1, max_length=20_000)]


class LabelledPair(Contract):
    """Two completions of one prompt, one of which a person judged better."""

    prompt: AnchorText
    """The prompt that both completions answer."""
    better: AnchorText
    """The better completion."""
    worse: AnchorText
    """The worse completion."""
    reference: AnchorText | None = None
    """What checks compare both with, for a task that has references: the correct answer, for example."""

    @property
    def identity(self) -> str:
        """Equal for equal pairs, whatever their reference, so a pair that proposers have seen is never held out."""
        return sha256_of([self.prompt, self.better, self.worse])

    @model_validator(mode="after")
    def _two_differ(self) -> Self:
        if self.better.strip() == self.worse.strip():
            raise ValueError("better and worse are the same text")
        return self


class ImportAnchors(Contract):
    """Pairs to add to a task's anchors."""

    pairs: tuple[LabelledPair, ...] = Field(min_length=1, max_length=MAX_LABELLED)
    """The labelled pairs; a pair that is already there is ignored."""
    by: str = Field(min_length=1, max_length=128)
    """Who adds them."""
    reason: str = Field(min_length=1, max_length=2_000)
    """Why they are added."""


class AnchorsResponse(TolerantModel):
    """The current anchor set of a task."""

    model_config = ConfigDict(serialize_by_alias=True)

    version: str
    """Changes whenever the gate's cases change."""
    originals: int
    """Held-out originals, which the gate uses; the better completions of held-out pairs count."""
    early_originals: int = Field(default=0, alias="early")
    """How many of the originals are early completions of the policy, added because the gate needed more."""
    cases: int
    """Items that the gate scores for each rubric."""
    pairs: int
    """Labelled pairs in all; proposers may see two in five of them, and the gate uses the others."""
