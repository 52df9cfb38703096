"""What proposers hand to the lint and the gate. A checkpoint keeps these values as JSON."""

from dataclasses import dataclass

from regrade.contracts import Rubric


@dataclass(frozen=True)
class Candidate:
    """A rubric that may replace the active one, and the name of its proposer."""

    rubric: Rubric
    proposer: str


@dataclass(frozen=True)
class Proposal:
    """What one proposer returns. `notes` go into the cycle's report: what was dropped, and why."""

    candidates: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()
    failed: str = ""
    """Why an attempt gave no candidate; empty where there was nothing to propose."""
