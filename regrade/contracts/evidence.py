"""Figures of a window of traces, measured without an LLM, and the alarms that they raise."""

from pydantic import Field

from regrade.contracts.base import TolerantModel


class Alarm(TolerantModel):
    """A figure above its threshold. Higher is always worse: a decrease, for example, is a positive figure."""

    name: str
    """Name of the figure."""
    figure: float
    """Its value in the latest window."""
    threshold: float
    """The alarm is raised when the figure exceeds this."""
    lowered_at: float
    """The alarm clears when the figure falls below this."""
    since: str
    """Id in the trace log of the newest trace of the window that raised it."""
    traces: tuple[str, ...]
    """Ids of example traces from the latest window above the threshold, clearest first."""


class Audited(TolerantModel):
    """A trace that the audit judge scored again; one without a usable audit reward is ignored."""

    trace_id: str
    """Id of the trace."""
    digest: str
    """Digest of the rubric behind the reward."""
    reward: float
    """The reward in the trace."""
    audit: float | None
    """The audit judge's reward; null if it gave no usable one."""


class AuditFigures(TolerantModel):
    """Rewards and audit rewards of a window.

    The changes are measured from the active rubric's first audited traces, as one-sided 95 % confidence bounds; null
    while there are too few.
    """

    traces: int
    """Audited traces of the window."""
    reward_mean: float | None
    """Mean reward of those traces."""
    audit_mean: float | None
    """Mean audit reward of those traces."""
    reward_rise: float | None
    """Lower bound of the rise of the mean reward."""
    audit_fall: float | None
    """Lower bound of the fall of the mean audit reward."""


class CriterionFigures(TolerantModel):
    """One criterion in the window, on the traces that the active rubric scored."""

    traces: int
    """Traces with a score of the criterion."""
    mean: float
    """Mean score."""
    std: float
    """Standard deviation of the scores."""
    confidence: float
    """Mean confidence of the scores; 1 for a check."""
    flat_groups: float
    """Share of groups (of two or more) in which all scores are equal."""
    contribution: float
    """Share of the variance of the raw reward, by weighted covariance; the shares of all criteria add up to 1."""


class Evidence(TolerantModel):
    """Figures of a window of traces. Shares are in [0, 1], correlations in [-1, 1]."""

    window: tuple[str, str]
    """Half-open interval of ids in the trace log: after the first, up to and including the second."""
    traces: int
    """Number of traces."""
    groups: int
    """Number of groups."""
    first_step: int | None
    """Smallest step of the traces; null without steps."""
    last_step: int | None
    """Largest step of the traces; null without steps."""
    means: dict[str, float]
    """Mean of each text feature."""
    drift: dict[str, float]
    """Mean of each text feature minus its mean over the first steps of the runs in the window."""
    correlation: dict[str, float]
    """Spearman's rank correlation of the reward with each text feature; 0 where either is constant."""
    reward_mean: float
    """Mean reward."""
    reward_std: float
    """Standard deviation of the rewards."""
    reward_drift: float = 0.0
    """Mean reward minus its mean over the first steps."""
    group_std: float = 0.0
    """Mean standard deviation of the rewards within a group, from which advantages are computed."""
    saturated_share: float
    """Share of rewards at 0.95 or above."""
    floored_share: float = 0.0
    """Share of rewards at 0.05 or below."""
    zero_variance_groups: float
    """Share of groups (of two or more) whose rewards are all equal."""
    flagged_share: float
    """Share of traces with a flag."""
    flag_shares: dict[str, float] = Field(default_factory=dict)
    """Share of traces with each flag."""
    languages: dict[str, float] = Field(default_factory=dict)
    """Share of completions by language (ISO 639-1); "und" for those too short to tell."""
    endings: dict[str, float] = Field(default_factory=dict)
    """Share of completions by how they end: sentence, question, colon, word, other, empty."""
    criteria: dict[str, CriterionFigures] = Field(default_factory=dict)
    """Figures of each criterion of the active rubric."""
    audit: AuditFigures | None = None
    """Figures of the audit; null without an audit judge."""
    baseline_traces: int = 0
    """Number of traces of the runs' first steps in the comparison."""
    alarms: tuple[Alarm, ...] = ()
    """Alarms that are raised after this window."""
