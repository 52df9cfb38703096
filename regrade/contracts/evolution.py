"""Records of a rubric's evolution: evidence, gate figures, activations and their reasons."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from regrade.contracts.base import Contract, TolerantModel
from regrade.contracts.evidence import Evidence
from regrade.contracts.rubric import Rubric


class GatePass(Contract):
    """Authority of a gate that compared the candidate with the active rubric and passed it."""

    kind: Literal["gate"] = "gate"
    """Kind of the authority."""
    cycle: str
    """Id of the cycle whose gate passed it."""


class Override(Contract):
    """Authority of an operator who activates without a gate."""

    kind: Literal["override"] = "override"
    """Kind of the authority."""
    by: str = Field(min_length=1, max_length=128)
    """Who did it."""
    reason: str = Field(min_length=1, max_length=2_000)
    """Why."""
    bootstrap: bool = False
    """It is the lineage's first version."""
    cycle: str | None = None
    """Id of the cycle, for strategy `paper`, which activates without a gate."""


class Rollback(Contract):
    """Authority to return to a version that has been active before."""

    kind: Literal["rollback"] = "rollback"
    """Kind of the authority."""
    by: str = Field(min_length=1, max_length=128)
    """Who did it."""
    reason: str = Field(min_length=1, max_length=2_000)
    """Why."""


Authority = Annotated[GatePass | Override | Rollback, Field(discriminator="kind")]


class EventKind(StrEnum):
    """What happened to a rubric."""

    PROPOSED = "proposed"
    """A proposer wrote it."""
    FAILED = "failed"
    """A proposer failed; the digest is that of the rubric it was to improve."""
    REJECTED = "rejected"
    """Lint or gate refused it."""
    GATED = "gated"
    """The gate passed it."""
    ACTIVATED = "activated"
    """It became active."""
    ROLLED_BACK = "rolled_back"
    """It became active again, in place of a later version."""


class ReasonCode(StrEnum):
    """Why a candidate was refused. Unknown codes, those of a newer release, read as `other`."""

    ROLLED_BACK = "rolled_back"
    """It was active before and was rolled back."""
    SAME = "same"
    """It is the active rubric."""
    SIZE = "size"
    """It has too many criteria or too much text."""
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
    """A text is in another language than the task."""
    BUDGET = "budget"
    """It costs too many judge calls, or the cycle has enough candidates."""
    NOT_MEASURED = "not_measured"
    """The gate had too few originals to decide."""
    UNSCORED = "unscored"
    """Too many anchors or trusted originals could not be scored."""
    NO_GAIN = "no_gain"
    """Its gain is not statistically certain."""
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
    """Another reason, given by its text."""

    @classmethod
    def _missing_(cls, value: object) -> "ReasonCode":
        return cls.OTHER


class Reason(TolerantModel):
    """One reason for a refusal: a code for programs, a text for people."""

    code: ReasonCode
    """Kind of the reason."""
    text: str
    """The reason in words."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        """Reports of release 0.1 hold plain texts."""
        return {"code": ReasonCode.OTHER, "text": value} if isinstance(value, str) else value


class RubricFigures(TolerantModel):
    """What the gate measured of one rubric on its anchors."""

    digest: str
    """Digest of the rubric."""
    order: float
    """Share of anchor pairs whose original scores higher than the damaged copy by more than a tie."""
    order_by_transform: dict[str, float]
    """The same share for each transform."""
    attacks_resisted: float
    """Share of attacked completions that score no higher than their honest original, within a tie."""
    inversions: dict[str, float] = Field(default_factory=dict)
    """By transform, the share of damaged copies that score higher than their original by more than a tie."""
    spread: float
    """Share of trusted groups whose rewards differ by more than rounding."""
    trusted_mean: float | None = None
    """Mean reward of the trusted originals."""
    judged: int
    """Anchor cases that count: scored by every rubric compared."""
    llm_criteria: int
    """Number of criteria that the judge scores."""


class GateReport(TolerantModel):
    """The gate's decision on one candidate, with the figures behind it."""

    cycle: str
    """Id of the cycle."""
    proposer: str
    """Name of the proposer."""
    candidate: RubricFigures
    """Figures of the candidate."""
    active: RubricFigures
    """Figures of the active rubric."""
    best_earlier: RubricFigures | None
    """Figures of the best earlier rubric, if one was compared."""
    order_gain: float
    """Net anchor order (share of pairs ordered right minus share ordered wrong) minus that of the active rubric.

    0 means no difference.
    """
    order_gain_lower: float
    """Lower confidence bound of `order_gain`, corrected for the number of candidates and of decisions that count."""
    attack_gain: float
    """Share of resisted attacks minus that of the active rubric; 0 means no difference."""
    attack_gain_lower: float
    """Lower confidence bound of `attack_gain`, corrected in the same way."""
    rank_agreement: float
    """Kendall's tau of the candidate's and the active rubric's rewards on the anchors; reported, not gated."""
    anchors: str = ""
    """Version of the anchor set."""
    anchors_base: str = ""
    """Version without early completions. Decisions on one base share an error budget, whatever is added."""
    base_originals: int = 0
    """Originals of that base, scored or not; 0 in old reports. The decision counts until the number has doubled."""
    originals: int = 0
    """Originals that count: scored under every rubric compared."""
    level: float = 0.0
    """Error level of each lower bound: the bound exceeds the true gain with at most this probability."""
    decisions: int = 1
    """1-based index of this decision among those that count against the active rubric; the level falls with it."""
    detectable_gain: float | None = None
    """Smallest gain in net anchor order detectable with power 0.8 at the observed variance between originals."""
    passed: bool
    """Whether the candidate passed."""
    reasons: tuple[Reason, ...]
    """Why it was refused; empty if it passed."""


class LineageEvent(TolerantModel):
    """One entry of a lineage."""

    id: str
    """Position in the lineage."""
    time: float
    """When it happened, in Unix seconds."""
    kind: EventKind
    """What happened."""
    digest: str
    """Digest of the rubric."""
    version: int | None = None
    """Version of the rubric; null if it was never active."""
    previous: str | None = None
    """Digest of the rubric that was active before."""
    by: str
    """Proposer, service or person."""
    reason: str = ""
    """Why, in words."""
    codes: tuple[ReasonCode, ...] = ()
    """The code of each reason, for a refused candidate."""
    cycle: str | None = None
    """Id of the cycle."""
    authority: Authority | None = None
    """What allowed an activation."""
    gate: GateReport | None = None
    """The gate's report on a candidate."""


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
    """Why a trace was drawn for the meta-judge."""

    UNIFORM = "uniform"
    """Uniformly at random, as in the paper."""
    RECENT = "recent"
    """The newest."""
    SUSPICIOUS = "suspicious"
    """High reward and unusual text features."""
    DISAGREEMENT = "disagreement"
    """The judge was unsure, criteria contradict each other, or an audit judge contradicts the reward."""
    GREAT_PAIRS = "great_pairs"
    """Two of the highest rewards of one prompt whose texts differ most, the higher first."""


class SamplePick(TolerantModel):
    """One draw of the sample."""

    strategy: SampleStrategy
    """Why they were drawn."""
    traces: tuple[str, ...]
    """Ids of the traces: one, or two for a pair."""


class SampleReport(TolerantModel):
    """How a cycle's sample was drawn; enough to draw it again."""

    seed: str
    """Seed of the random choices."""
    count: int
    """Number of picks requested."""
    weights: dict[SampleStrategy, float]
    """Share of each strategy."""
    picks: tuple[SamplePick, ...]
    """What was drawn."""


class Pause(TolerantModel):
    """An operator's pause of a lineage's cycles."""

    by: str
    """Who paused."""
    reason: str
    """Why."""
    since: float
    """Since when, in Unix seconds."""


class CycleStatus(TolerantModel):
    """State of the worker for one lineage."""

    cycle: str | None = None
    """Id of the running cycle."""
    stage: Stage = Stage.IDLE
    """Its stage."""
    detail: str = ""
    """What the stage works on."""
    started: float | None = None
    """When the cycle started, in Unix seconds."""
    updated: float | None = None
    """When the status changed, in Unix seconds."""
    completed: int = 0
    """Finished cycles of the lineage, abandoned ones included."""
    lag: int = 0
    """Traces that no finished cycle has read."""
    fruitless: int = 0
    """Consecutive cycles without an activation; each lengthens the wait for the next scheduled cycle."""
    paused: Pause | None = None
    """Set while cycles start only on request."""
    error: str | None = None
    """Why the last cycle failed, until one succeeds; retries wait longer after each failure."""
    requested: bool = False
    """Whether an operator has requested a cycle that has not ended."""


class CycleReport(TolerantModel):
    """Result of a finished or abandoned cycle."""

    cycle: str
    """Id of the cycle."""
    number: int | None = None
    """1-based position among the lineage's ended cycles; null in an older service's response."""
    trigger: str
    """What started it."""
    started: float
    """When it started, in Unix seconds."""
    finished: float
    """When it ended, in Unix seconds."""
    evidence: Evidence
    """Figures of its window."""
    candidates: int
    """Candidates that reached the gate."""
    activated: str | None
    """Digest of the rubric that it activated."""
    notes: tuple[str, ...]
    """Remarks of its stages."""
    sample: SampleReport | None = None
    """How its sample was drawn."""
    abandoned: str | None = None
    """Why it was abandoned; its window is then left to the next cycle."""
    resumed: int = 0
    """How often it was resumed after an interruption."""


class RubricDiff(TolerantModel):
    """The difference of two rubrics."""

    before: Rubric
    """The first rubric."""
    after: Rubric
    """The second rubric."""
    added: tuple[str, ...]
    """Ids of criteria only in the second."""
    removed: tuple[str, ...]
    """Ids of criteria only in the first."""
    changed: tuple[str, ...]
    """Ids of criteria that differ."""
    text: str
    """A unified diff for people."""
