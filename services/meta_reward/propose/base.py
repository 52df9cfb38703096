"""What a proposer is given, and what it gives back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from regrade.contracts import Criterion, Evidence, Rubric, Stage, Trace
from services.meta_reward.gate import Candidate

Progress = Callable[[Stage, str], Awaitable[None]]


class Brief(NamedTuple):
    """What a proposer knows. `visible` are (prompt, completion) of the trusted originals it may see.

    `sample` is what the meta-judge may be shown of the window; `pairs` are those of it drawn in twos, the better first.
    """

    cycle: str
    meta_role: str
    visible: Sequence[tuple[str, str]]
    active: Rubric
    evidence: Evidence
    window: Sequence[Trace]
    sample: Sequence[Trace]
    pairs: Sequence[tuple[Trace, Trace]] = ()


class Proposal(NamedTuple):
    """Candidates, and notes for the cycle's report: what was dropped and why.

    `failed` says why an attempt came to nothing; it is empty where there was nothing to propose.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    failed: str = ""


class Proposer(Protocol):
    """A source of candidates. A proposer that fails costs its own proposal, nothing else."""

    name: str

    async def propose(self, brief: Brief, progress: Progress) -> Proposal:
        """Candidates for this brief, none if there is nothing to propose."""
        ...


def extended(active: Rubric, added: Sequence[Criterion], *, by: str, rationale: str) -> Rubric:
    """The active rubric with further criteria, as a candidate."""
    return Rubric(
        lineage=active.lineage,
        scope=active.scope,
        parent=active.digest,
        preamble=active.preamble,
        criteria=(*active.criteria, *added),
        offset=active.offset,
        created_by=by,
        rationale=rationale,
    )
