"""Anchors of a user's own: pairs of completions that a person has put in order."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from regrade.contracts.base import Contract, sha256_of

MAX_LABELLED = 512

AnchorText = Annotated[str, Field(min_length=1, max_length=20_000)]


class LabelledPair(Contract):
    """Two completions of one prompt, of which a person found one better."""

    prompt: AnchorText
    better: AnchorText
    worse: AnchorText
    reference: AnchorText | None = None
    """What checks compare both with, where the task has such a thing: the right answer, say."""

    @property
    def identity(self) -> str:
        """The same pair given twice is one, whatever its reference: what proposers were shown is never hidden later."""
        return sha256_of([self.prompt, self.better, self.worse])

    @model_validator(mode="after")
    def _two_differ(self) -> Self:
        if self.better.strip() == self.worse.strip():
            raise ValueError("better and worse are the same text")
        return self


class ImportAnchors(Contract):
    """Pairs to be added to a task's anchors, who adds them and why."""

    pairs: tuple[LabelledPair, ...] = Field(min_length=1, max_length=MAX_LABELLED)
    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)


class AnchorsAnswer(Contract):
    """A task's anchor set as it is now."""

    version: str
    """Changes with what the gate measures on."""
    originals: int
    """Originals the gate measures on, the better ones of pairs among them."""
    early: int = 0
    """Of these, the early completions of the policy that the gate took up as it needed more."""
    cases: int
    """Items it scores for each rubric."""
    pairs: int
    """Labelled pairs in all; two in five are shown to proposers, and the gate does not measure on those."""
