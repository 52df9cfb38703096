"""What a window of traces shows, measured without an LLM, and the alarms it raises."""

from pydantic import Field

from regrade.contracts.score import Outcome


class Alarm(Outcome):
    """One figure that has gone too far. It stays raised until the figure is back under `lowered_at`.

    Figures are turned so that more is worse: how far something fell, how closely the reward follows it.
    """

    name: str
    figure: float
    threshold: float
    """It was raised when the figure passed this."""
    lowered_at: float
    since: str
    """Id in the trace stream up to which the traces were read that raised it."""
    traces: tuple[str, ...]
    """Ids of the traces that show it most, the clearest first: of the last measurement that was above the threshold."""


class Audited(Outcome):
    """A trace that the audit judge was asked about: its reward under `digest`, and the audit's.

    `audit` is None where the audit judge gave nothing usable: that counts for nothing.
    """

    trace_id: str
    digest: str
    reward: float
    audit: float | None


class AuditFigures(Outcome):
    """What the audit says of a window. The changes are since the active rubric's first audited traces.

    They are None while there are too few; each is the least that is sure (one-sided, at 95 %).
    """

    traces: int
    """Traces of the window that the audit judge scored."""
    reward_mean: float | None
    """Of those traces."""
    audit_mean: float | None
    reward_rise: float | None
    audit_fall: float | None


class CriterionFigures(Outcome):
    """What one criterion did for the rewards of the window, on the traces that the active rubric scored."""

    traces: int
    mean: float
    std: float
    confidence: float
    """Mean confidence of its scores; a check is certain."""
    flat_groups: float
    """Share of groups (of two or more) in which all of its scores are equal."""
    contribution: float
    """Its share of the variance of the raw reward: weighted covariance; the shares of all criteria add up to 1."""


class Evidence(Outcome):
    """What a window of traces shows. Shares and correlations are in [0, 1] and [-1, 1].

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
    """Mean of each surface feature minus its mean over the first steps of the runs in the window."""
    correlation: dict[str, float]
    """Spearman's rank correlation of the reward with each surface feature; 0 where either is constant."""
    reward_mean: float
    reward_std: float
    reward_drift: float = 0.0
    """Mean reward minus its mean over the first steps."""
    group_std: float = 0.0
    """Mean standard deviation of the rewards within a group: what an advantage is made of."""
    saturated_share: float
    """Share of rewards at 0.95 or above."""
    floored_share: float = 0.0
    """Share of rewards at 0.05 or below."""
    zero_variance_groups: float
    """Share of groups (of two or more) whose rewards are all equal."""
    flagged_share: float
    flag_shares: dict[str, float] = Field(default_factory=dict)
    languages: dict[str, float] = Field(default_factory=dict)
    """Share of completions by language (ISO 639-1); "und" for those too short to tell."""
    endings: dict[str, float] = Field(default_factory=dict)
    """Share of completions by how they end: sentence, question, colon, word, other, empty."""
    criteria: dict[str, CriterionFigures] = Field(default_factory=dict)
    """By criterion of the rubric that was active when it was measured."""
    audit: AuditFigures | None = None
    """None where nothing is audited."""
    baseline_traces: int = 0
    """How many traces of the runs' first steps it was compared with."""
    alarms: tuple[Alarm, ...] = ()
    """Those raised, of this window or of an earlier one."""
