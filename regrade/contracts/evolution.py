"""Records of a rubric's evolution: what the traces showed, what the gate measured, what became active and why."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from regrade.contracts.base import Contract
from regrade.contracts.evidence import Evidence
from regrade.contracts.rubric import Rubric
from regrade.contracts.score import Outcome


class GatePass(Contract):
    """The authority of a gate report that passed against the rubric now active."""

    kind: Literal["gate"] = "gate"
    cycle: str


class Override(Contract):
    """The authority of an operator who activates without a gate; `bootstrap` marks a lineage's first version.

    `cycle` is set where the operator has chosen strategy `paper`, and a cycle activated on that.
    """

    kind: Literal["override"] = "override"
    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)
    bootstrap: bool = False
    cycle: str | None = None


class Rollback(Contract):
    """The authority to return to a version that has been active before."""

    kind: Literal["rollback"] = "rollback"
    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)


Authority = Annotated[GatePass | Override | Rollback, Field(discriminator="kind")]


class EventKind(StrEnum):
    """What happened to a rubric."""

    PROPOSED = "proposed"
    FAILED = "failed"
    """A proposer's attempt came to nothing; the digest is that of the rubric it was to improve."""
    REJECTED = "rejected"
    GATED = "gated"
    ACTIVATED = "activated"
    ROLLED_BACK = "rolled_back"


class ReasonCode(StrEnum):
    """Why a candidate was refused. Unknown codes, those of a newer release, read as `other`."""

    ROLLED_BACK = "rolled_back"
    """It was active before and was rolled back."""
    SAME = "same"
    """It is the active rubric."""
    SIZE = "size"
    DUPLICATE = "duplicate"
    """Two criteria or checks ask for the same."""
    WEIGHTS = "weights"
    """One new criterion dominates the award weight."""
    LEVELS = "levels"
    """Level texts say nothing, repeat each other, or are in the wrong order."""
    INSTRUCTION = "instruction"
    """A text addresses the judge, or holds control tokens."""
    LEAK = "leak"
    """A text quotes a sampled completion or prompt."""
    LANGUAGE = "language"
    BUDGET = "budget"
    """It costs too many judge calls, or the cycle has enough candidates."""
    NOT_MEASURED = "not_measured"
    """The gate had too few originals to decide."""
    UNSCORED = "unscored"
    """Too many anchors or trusted originals could not be scored."""
    NO_GAIN = "no_gain"
    WORSE = "worse"
    """Anchor order may be worse by more than the margin."""
    ATTACKS = "attacks"
    """It lets more attacks through."""
    SPREAD = "spread"
    """It tells fewer groups of trusted completions apart."""
    INVERSION = "inversion"
    """It prefers damaged text."""
    ACTIVATION = "activation"
    """It was accepted, but could not be activated."""
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> "ReasonCode":
        return cls.OTHER


class Reason(Outcome):
    """One reason for a refusal: a code for programs, a text for people."""

    code: ReasonCode
    text: str

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        """Reports of release 0.1 hold plain texts."""
        return {"code": ReasonCode.OTHER, "text": value} if isinstance(value, str) else value


class RubricFigures(Outcome):
    """What the gate measured of one rubric on its anchors."""

    digest: str
    order: float
    """Share of anchor pairs whose original scores above its damaged twin by more than a tie."""
    order_by_transform: dict[str, float]
    attacks_resisted: float
    """Share of attacked completions that score no higher than their honest original, within a tie."""
    inversions: dict[str, float] = Field(default_factory=dict)
    """By transform, the share of damaged twins that score above their original by more than a tie."""
    spread: float
    """Share of trusted groups whose rewards differ by more than rounding."""
    trusted_mean: float | None = None
    """Mean reward of the trusted originals."""
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
    """Gain in net anchor order: the share of pairs put right minus the share put wrong. A coin gains nothing."""
    order_gain_lower: float
    """Its lower confidence bound, corrected for the number of candidates and of the decisions that count."""
    attack_gain: float
    attack_gain_lower: float
    rank_agreement: float
    """Kendall's tau of the candidate's and the active rubric's rewards on the anchors; reported, not gated."""
    anchors: str = ""
    """Version of the anchor set it was measured on."""
    anchors_base: str = ""
    """Version of it without early completions. Decisions on one base share an error level: growth grants no new one."""
    base_originals: int = 0
    """Originals of that base, scored or not; 0: not told. The decision counts until there are twice as many."""
    originals: int = 0
    """Originals that count: scored under every rubric compared."""
    level: float = 0.0
    """Error level that each lower bound was drawn at."""
    decisions: int = 1
    """1-based index of this decision among those that count against the active rubric; the level falls with it."""
    detectable_gain: float | None = None
    """Smallest gain in net anchor order detectable with power 0.8 at the observed variance between originals."""
    passed: bool
    reasons: tuple[Reason, ...]
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
    codes: tuple[ReasonCode, ...] = ()
    """The code of each reason, for a refused candidate."""
    cycle: str | None = None
    authority: Authority | None = None
    gate: GateReport | None = None


class Stage(StrEnum):
    """Where a cycle stands."""

    IDLE = "idle"
    EVIDENCE = "evidence"
    SAMPLE = "sample"
    PROPOSE = "propose"
    PRESCREEN = "prescreen"
    ANALYSE = "analyse"
    REFINE = "refine"
    MERGE = "merge"
    LINT = "lint"
    GATE = "gate"
    ACTIVATE = "activate"


class SampleStrategy(StrEnum):
    """By what a trace was chosen for the meta-judge to look at."""

    UNIFORM = "uniform"
    """By lot, as in the paper."""
    RECENT = "recent"
    """The newest."""
    SUSPICIOUS = "suspicious"
    """Well rewarded, with an odd features."""
    DISAGREEMENT = "disagreement"
    """The judge was unsure, criteria contradict each other, or an audit judge contradicts the reward."""
    GREAT_PAIRS = "great_pairs"
    """Two of the best rewarded for one prompt that differ most, the better first."""


class SamplePick(Outcome):
    """One pick: the ids of its traces, two for a pair."""

    strategy: SampleStrategy
    traces: tuple[str, ...]


class SampleReport(Outcome):
    """How a cycle's sample was drawn from its window: enough to draw it again."""

    seed: str
    count: int
    weights: dict[SampleStrategy, float]
    picks: tuple[SamplePick, ...]


class Pause(Outcome):
    """Who paused a line's cycles, and why. `since` is Unix seconds."""

    by: str
    reason: str
    since: float


class CycleStatus(Outcome):
    """What the worker is doing for one lineage: `started` and `updated` are Unix seconds."""

    cycle: str | None = None
    stage: Stage = Stage.IDLE
    detail: str = ""
    started: float | None = None
    updated: float | None = None
    completed: int = 0
    """Cycles that have ended so far in this lineage, abandoned ones too."""
    lag: int = 0
    """Traces not yet seen by a finished cycle."""
    fruitless: int = 0
    """Cycles in a row that activated nothing; the more, the longer until the next one that nothing calls for."""
    paused: Pause | None = None
    """Set while no cycle starts but on request."""
    error: str | None = None
    """Why the last cycle failed, until one succeeds; each try comes after a while that grows with every failure."""


class CycleReport(Outcome):
    """What one cycle did that finished, or was abandoned: then its window is left to the next one."""

    cycle: str
    trigger: str
    started: float
    finished: float
    evidence: Evidence
    candidates: int
    """Candidates that reached the gate."""
    activated: str | None
    notes: tuple[str, ...]
    sample: SampleReport | None = None
    abandoned: str | None = None
    """Why it was given up, if it was."""
    resumed: int = 0
    """How often another try went on where one had ended."""


class RubricDiff(Outcome):
    """The difference of two rubrics, criterion by criterion (ids)."""

    before: Rubric
    after: Rubric
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    text: str
    """A unified diff of the two, line by line, for people."""
