"""Evidence: statistics of a window of traces, measured without an LLM. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import covariance, fmean, pstdev, variance
from typing import NamedTuple

from regrade.contracts import (
    Alarm,
    AuditFigures,
    CheckCriterion,
    Criterion,
    CriterionFigures,
    Evidence,
    Purpose,
    Role,
    Rubric,
    Trace,
)
from services.meta_reward.evidence.audit import AuditChange
from services.meta_reward.evidence.rank_statistics import all_equal, means, spearman
from services.meta_reward.evidence.text_features import TextFeatures, extract_features, shares

SATURATED = 0.95
FLOORED = 0.05
"""Rewards so close to a bound leave an advantage no room in that direction."""
BASELINE_TRACES = 64
"""Of each run: a few steps of a usual batch, before the policy could learn to exploit the rubric."""

Baselines = Mapping[str | None, Sequence[Trace]]
"""By run, the traces of its first steps."""


class WindowSummary(NamedTuple):
    """Statistics of a window, from which alarms and evidence are built."""

    traces: Sequence[Trace]
    features: Sequence[TextFeatures]
    """Of each trace."""
    groups: Sequence[Sequence[Trace]]
    first: Mapping[str, float]
    """By feature, its mean over the first steps of the window's runs."""
    drift: Mapping[str, float]
    """By feature, its mean over the window minus `first`."""
    flag_drift: Mapping[str, float]
    """By flag, its share in the window minus its share in the first steps."""
    correlation: Mapping[str, float]
    """By feature, its rank correlation with the reward."""
    audit: AuditChange | None = None
    """Since the active rubric was activated; None without an audit, or with too few audited traces."""

    def column(self, feature: str) -> list[float]:
        """A feature of every trace."""
        return [one.values[feature] for one in self.features]

    @property
    def rewards(self) -> list[float]:
        """The reward of every trace."""
        return [trace.reward for trace in self.traces]


def is_evidence(trace: Trace) -> bool:
    """Only training items are evidence and count for triggers."""
    return trace.purpose is Purpose.TRAIN


def by_group(traces: Sequence[Trace]) -> list[list[Trace]]:
    """Traces whose rewards are compared with each other, in groups of two or more."""
    groups: defaultdict[tuple[str | None, int | None, str], list[Trace]] = defaultdict(list)
    for trace in traces:
        groups[trace.run, trace.step, trace.group].append(trace)
    return [group for group in groups.values() if len(group) > 1]


def has_equal_rewards(group: Sequence[Trace]) -> bool:
    """Whether a group gives the policy no gradient."""
    return all_equal([trace.reward for trace in group])


def zero_variance_share(traces: Sequence[Trace]) -> float:
    """Share of groups whose rewards are all equal; 0 without groups."""
    groups = by_group(traces)
    return sum(map(has_equal_rewards, groups)) / len(groups) if groups else 0.0


def extend_baselines(known: Baselines, traces: Sequence[Trace]) -> dict[str | None, list[Trace]]:
    """The baselines of the runs of `traces`, filled up from `traces` to 64 each. Idempotent."""
    baselines = {run: list(known.get(run, ())) for run in dict.fromkeys(trace.run for trace in traces)}
    known_ids = {trace.trace_id for baseline in baselines.values() for trace in baseline}
    for trace in traces:
        if len(baselines[trace.run]) < BASELINE_TRACES and trace.trace_id not in known_ids:
            baselines[trace.run].append(trace)
    return baselines


def summarise_window(traces: Sequence[Trace], baselines: Baselines, audit: AuditChange | None = None) -> WindowSummary:
    """Statistics of a window, which must not be empty."""
    features = extract_features(traces)
    first, drift = _drift(traces, features, baselines)
    rewards = [trace.reward for trace in traces]
    names = features[0].values
    return WindowSummary(
        traces=traces,
        features=features,
        groups=by_group(traces),
        first=first,
        drift=drift,
        flag_drift=_flag_drift(traces, baselines),
        correlation={name: spearman([one.values[name] for one in features], rewards) for name in names},
        audit=audit,
    )


def build_evidence(
    summary: WindowSummary,
    baselines: Baselines,
    window: tuple[str, str],
    *,
    rubric: Rubric | None = None,
    alarms: Sequence[Alarm] = (),
    audit: AuditFigures | None = None,
) -> Evidence:
    """The evidence of a window. `rubric` is the active one, `alarms` are those raised after this window."""
    traces, rewards, groups = summary.traces, summary.rewards, summary.groups
    steps = [trace.step for trace in traces if trace.step is not None]
    return Evidence(
        window=window,
        traces=len(traces),
        groups=len(groups),
        first_step=min(steps, default=None),
        last_step=max(steps, default=None),
        means=means([one.values for one in summary.features]),
        drift=dict(summary.drift),
        correlation=dict(summary.correlation),
        reward_mean=fmean(rewards),
        reward_std=pstdev(rewards),
        reward_drift=_reward_drift(traces, baselines),
        group_std=fmean(pstdev([t.reward for t in group]) for group in groups) if groups else 0.0,
        saturated_share=fmean(reward >= SATURATED for reward in rewards),
        floored_share=fmean(reward <= FLOORED for reward in rewards),
        zero_variance_groups=zero_variance_share(traces),
        flagged_share=fmean(bool(trace.flags) for trace in traces),
        flag_shares=_flag_shares(traces),
        languages=shares([one.language for one in summary.features]),
        endings=shares([one.ending for one in summary.features]),
        criteria=criterion_figures(traces, rubric) if rubric is not None else {},
        audit=audit,
        baseline_traces=len({trace.trace_id for trace in _baseline_traces(traces, baselines)}),
        alarms=tuple(alarms),
    )


def criterion_figures(traces: Sequence[Trace], rubric: Rubric) -> dict[str, CriterionFigures]:
    """Statistics of each criterion, on the traces for which `rubric` scored all its criteria; empty without any."""
    ids = {criterion.id for criterion in rubric.criteria}
    complete = [(t, scores) for t in traces if t.digest == rubric.digest and ids <= set(scores := _scores(t))]
    if not complete:
        return {}
    by_trace = {trace.trace_id: scores for trace, scores in complete}
    groups = by_group([trace for trace, _ in complete])
    raw = [trace.raw for trace, _ in complete]
    figures = {}
    for criterion in rubric.criteria:
        values = [scores[criterion.id][0] for _, scores in complete]
        flat = [all_equal([by_trace[t.trace_id][criterion.id][0] for t in group]) for group in groups]
        figures[criterion.id] = CriterionFigures(
            traces=len(complete),
            mean=fmean(values),
            std=pstdev(values),
            confidence=fmean(scores[criterion.id][1] for _, scores in complete),
            flat_groups=fmean(flat) if flat else 0.0,
            contribution=_contribution(criterion, values, raw, rubric.total_weight(Role.AWARD)),
        )
    return figures


def _scores(trace: Trace) -> dict[str, tuple[float, float]]:
    """By criterion that has a score: (score, confidence)."""
    return {c.id: (c.score, c.confidence or 0.0) for c in trace.criteria if c.score is not None}


def _contribution(criterion: Criterion, values: Sequence[float], raw: Sequence[float], award: float) -> float:
    """Cov(weighted score, raw) / var(raw)."""
    if len(raw) < 2 or all_equal(raw) or criterion.role is Role.VETO:
        return 0.0
    # A check states what is wanted, so its score raises the sum in either role.
    is_negative = criterion.role is Role.DEDUCT and not isinstance(criterion, CheckCriterion)
    slope = (-1.0 if is_negative else 1.0) * criterion.weight / award
    return slope * covariance(values, raw) / variance(raw)


def _drift(
    traces: Sequence[Trace], features: Sequence[TextFeatures], baselines: Baselines
) -> tuple[dict[str, float], dict[str, float]]:
    """(means of the first steps, drift of the window), each run against its own baseline, weighted by its traces."""
    by_run: defaultdict[str | None, list[dict[str, float]]] = defaultdict(list)
    for trace, one in zip(traces, features, strict=True):
        if baselines.get(trace.run):
            by_run[trace.run].append(one.values)
    count = sum(map(len, by_run.values()))
    names = features[0].values
    first, drift = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for run, values in by_run.items():
        then = means([one.values for one in extract_features(baselines[run])])
        now, share = means(values), len(values) / count
        for name in names:
            first[name] += then[name] * share
            drift[name] += (now[name] - then[name]) * share
    return first, drift


def _reward_drift(traces: Sequence[Trace], baselines: Baselines) -> float:
    then = {run: fmean(trace.reward for trace in first) for run, first in baselines.items() if first}
    differences = [trace.reward - then[trace.run] for trace in traces if trace.run in then]
    return fmean(differences) if differences else 0.0


def _flag_drift(traces: Sequence[Trace], baselines: Baselines) -> dict[str, float]:
    """By flag, how much more often it is set than in the first steps; a run without a baseline counts as never."""
    first = _flag_shares(_baseline_traces(traces, baselines))
    return {flag: share - first.get(flag, 0.0) for flag, share in _flag_shares(traces).items()}


def _baseline_traces(traces: Sequence[Trace], baselines: Baselines) -> list[Trace]:
    runs = sorted({trace.run for trace in traces}, key=str)
    return [first for run in runs for first in baselines.get(run, ())]


def _flag_shares(traces: Sequence[Trace]) -> dict[str, float]:
    counts = Counter(flag for trace in traces for flag in trace.flags)
    return {flag: count / len(traces) for flag, count in sorted(counts.items())}
