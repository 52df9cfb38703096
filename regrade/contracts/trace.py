"""The trace: the record of one scored item, and the input of the meta-reward service."""

from pydantic import Field

from regrade.contracts.base import TolerantModel
from regrade.contracts.score import Conversation, CriterionScore, Purpose, Scalar, Usage


class Trace(TolerantModel):
    """One item that received a reward, written once (I5)."""

    trace_id: str
    """Identity of the item; a retry has the same."""
    task: str
    """Task of the item."""
    lineage: str
    """Lineage of the rubric."""
    scope: str | None
    """Scope that the item was scored in."""
    run: str | None
    """Training run."""
    step: int | None
    """Optimizer step of the run."""
    group: str
    """Group of the item; a hash of the prompt if the caller named none."""
    item_id: str
    """The item's id within the request."""
    purpose: Purpose
    """Why it was scored."""
    prompt: str | Conversation
    """The prompt as the caller sent it."""
    completion: str | Conversation
    """The completion as the caller sent it; of one flagged `too_long`, the first 20,000 characters."""
    reference: str | None
    """The reference, if the item had one."""
    digest: str
    """Digest of the rubric that scored it."""
    version: int | None
    """Version of the rubric; null for one that was never active."""
    reward: float
    """The reward, in [0, 1]."""
    raw: float
    """The weighted sum before offset, clipping and vetoes."""
    criteria: tuple[CriterionScore, ...]
    """Score of each criterion."""
    flags: tuple[str, ...]
    """Findings about the item, see `Flag`."""
    judge_model: str
    """Model that judged it."""
    usage: Usage
    """What the judge was billed for this item."""
    latency_ms: float
    """Time to score its batch, in milliseconds."""
    time: float
    """When it was scored, in Unix seconds."""
    metadata: dict[str, Scalar] = Field(default_factory=dict)
    """The caller's own labels of the item."""


class TracePage(TolerantModel):
    """A page of traces, newest first.

    One request reads a bounded stretch of the log, so a page may be short or empty and still have an `older` one.
    """

    traces: tuple[Trace, ...]
    """The traces that match the filter."""
    older: str | None
    """Value of `before` for the next page; null at the end of the log."""
