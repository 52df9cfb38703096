"""Records of a rubric's evolution: what the traces showed, what the gate measured, what became active and why."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from regrade.contracts.base import Contract
from regrade.contracts.rubric import Rubric
from regrade.contracts.score import Outcome


class GatePass(Contract):
    """The authority of a gate report that passed against the rubric now active."""

    kind: Literal["gate"] = "gate"
    cycle: str


class Override(Contract):
    """The authority of an operator who activates without a gate; `bootstrap` marks a lineage's first version."""

    kind: Literal["override"] = "override"
    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)
    bootstrap: bool = False


class Rollback(Contract):
    """The authority to return to a version that has been active before."""

    kind: Literal["rollback"] = "rollback"
    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)


Authority = Annotated[GatePass | Override | Rollback, Field(discriminator="kind")]


class EventKind(StrEnum):
    """What happened to a rubric."""

    PROPOSED = "proposed"
    REJECTED = "rejected"
    GATED = "gated"
    ACTIVATED = "activated"
    ROLLED_BACK = "rolled_back"


class Evidence(Outcome):
    """What a window of traces shows, measured without an LLM. Shares and correlations are in [0, 1] and [-1, 1].

    `window` is the half-open interval of trace ids (after, up to and including) it was measured on.
    """

    window: tuple[str, str]
    traces: int
    groups: int
    first_step: int | None
    last_step: int | None
    means: dict[str, float]
    """Mean of each surface feature over the window."""
    drift: dict[str, float]
    """Mean of each surface feature minus its mean over the run's first steps."""
    correlation: dict[str, float]
    """Pearson correlation of the reward with each surface feature; 0 where either is constant."""
    reward_mean: float
    reward_std: float
    saturated_share: float
    """Share of rewards at 0.95 or above."""
    zero_variance_groups: float
    """Share of groups (of two or more) whose rewards are all equal."""
    flagged_share: float
    flag_shares: dict[str, float] = Field(default_factory=dict)
    alarms: tuple[str, ...]


class RubricFigures(Outcome):
    """What the gate measured of one rubric on its anchors."""

    digest: str
    order: float
    """Share of anchor pairs whose original scores above its damaged twin by more than a tie."""
    order_by_transform: dict[str, float]
    attacks_resisted: float
    """Share of attacked completions that score no higher than their honest original, within a tie."""
    spread: float
    """Share of trusted groups whose rewards differ by more than rounding."""
    judged: int
    """Items scored for this measurement."""
    llm_criteria: int


class GateReport(Outcome):
    """The gate's verdict on one candidate, with every figure it rests on."""

    cycle: str
    proposer: str
    candidate: RubricFigures
    active: RubricFigures
    best_earlier: RubricFigures | None
    order_gain: float
    order_gain_lower: float
    """Lower confidence bound of the gain in anchor order, corrected for the number of candidates."""
    attack_gain: float
    attack_gain_lower: float
    rank_agreement: float
    """Kendall's tau of the candidate's and the active rubric's rewards on the anchors; reported, not gated."""
    passed: bool
    reasons: tuple[str, ...]
    """Why it was refused; empty when it passed."""


class LineageEvent(Outcome):
    """One entry of a lineage: `id` is its position, `time` Unix seconds, `version` None for one never active."""

    id: str
    time: float
    kind: EventKind
    digest: str
    version: int | None = None
    previous: str | None = None
    by: str
    reason: str = ""
    cycle: str | None = None
    authority: Authority | None = None
    gate: GateReport | None = None


class Stage(StrEnum):
    """Where a cycle stands."""

    IDLE = "idle"
    EVIDENCE = "evidence"
    SAMPLE = "sample"
    PRESCREEN = "prescreen"
    ANALYSE = "analyse"
    REFINE = "refine"
    MERGE = "merge"
    LINT = "lint"
    GATE = "gate"
    ACTIVATE = "activate"


class CycleStatus(Outcome):
    """What the worker is doing for one lineage: `started` and `updated` are Unix seconds."""

    cycle: str | None = None
    stage: Stage = Stage.IDLE
    detail: str = ""
    started: float | None = None
    updated: float | None = None
    completed: int = 0
    """Cycles finished so far in this lineage."""
    lag: int = 0
    """Traces not yet seen by a finished cycle."""
    error: str | None = None
    """Why the last cycle failed, until one succeeds; each try comes after a while that grows with every failure."""


class CycleReport(Outcome):
    """What one finished cycle did."""

    cycle: str
    trigger: str
    started: float
    finished: float
    evidence: Evidence
    candidates: int
    """Candidates that reached the gate."""
    activated: str | None
    notes: tuple[str, ...]


class RubricDiff(Outcome):
    """The difference of two rubrics, criterion by criterion (ids)."""

    before: Rubric
    after: Rubric
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    text: str
    """A unified diff of the two, line by line, for people."""
