"""Evidence: what a window of traces shows, measured without an LLM. Pure."""

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
BASELINE_TRACES = 64

Baselines = Mapping[str | None, Sequence[Trace]]
"""By run, the traces of its first steps."""


class WindowSummary(NamedTuple):
    """A window in figures, as the alarms' rules look at it. `first` and `drift` are by feature or flag."""

    traces: Sequence[Trace]
    rows: Sequence[TextFeatures]
    groups: Sequence[Sequence[Trace]]
    first: Mapping[str, float]
    drift: Mapping[str, float]
    flag_drift: Mapping[str, float]
    correlation: Mapping[str, float]
    audit: AuditChange | None = None
    """What the audit says since the active rubric became active, where there is one."""

    def column(self, feature: str) -> list[float]:
        """One feature of every trace."""
        return [row.features[feature] for row in self.rows]

    @property
    def rewards(self) -> list[float]:
        """The reward of every trace."""
        return [trace.reward for trace in self.traces]


def is_evidence(trace: Trace) -> bool:
    """Only training items feed evidence and triggers."""
    return trace.purpose is Purpose.TRAIN


def by_group(traces: Sequence[Trace]) -> list[list[Trace]]:
    """Traces whose rewards were compared with each other, in groups of two or more."""
    groups: defaultdict[tuple[str | None, int | None, str], list[Trace]] = defaultdict(list)
    for trace in traces:
        groups[trace.run, trace.step, trace.group].append(trace)
    return [group for group in groups.values() if len(group) > 1]


def has_equal_rewards(group: Sequence[Trace]) -> bool:
    """Whether a group's rewards are all equal: it teaches the policy nothing."""
    return all_equal([trace.reward for trace in group])


def zero_variance_share(traces: Sequence[Trace]) -> float:
    """Share of groups whose rewards are all equal."""
    groups = by_group(traces)
    return sum(map(has_equal_rewards, groups)) / len(groups) if groups else 0.0


def extend_baselines(known: Baselines, traces: Sequence[Trace]) -> dict[str | None, list[Trace]]:
    """For each run of `traces` its first ones: those known already, then those that are new, 64 at most.

    The same traces twice change nothing, so a window may be looked at again.
    """
    found = {run: list(known.get(run, ())) for run in dict.fromkeys(trace.run for trace in traces)}
    seen = {trace.trace_id for first in found.values() for trace in first}
    for trace in traces:
        if len(found[trace.run]) < BASELINE_TRACES and trace.trace_id not in seen:
            found[trace.run].append(trace)
    return found


def summarise_window(
    traces: Sequence[Trace],
    baselines: Baselines,
    rows: Sequence[TextFeatures] | None = None,
    audit: AuditChange | None = None,
) -> WindowSummary:
    """A window in figures. `traces` must not be empty; `rows` are their surface, where it is known already."""
    rows = extract_features(traces) if rows is None else rows
    first, drift = _drift(traces, rows, baselines)
    rewards = [trace.reward for trace in traces]
    names = rows[0].features
    return WindowSummary(
        traces=traces,
        rows=rows,
        groups=by_group(traces),
        first=first,
        drift=drift,
        flag_drift=_flag_drift(traces, baselines),
        correlation={name: spearman([row.features[name] for row in rows], rewards) for name in names},
        audit=audit,
    )


def build_evidence(
    measured: WindowSummary,
    baselines: Baselines,
    window: tuple[str, str],
    *,
    rubric: Rubric | None = None,
    alarms: Sequence[Alarm] = (),
    audit: AuditFigures | None = None,
) -> Evidence:
    """The evidence of a window. `rubric` is the active one; `alarms` are those that its figures leave raised."""
    traces, rewards, groups = measured.traces, measured.rewards, measured.groups
    steps = [trace.step for trace in traces if trace.step is not None]
    known = {trace.trace_id: trace for trace in _baseline_traces(traces, baselines)}
    return Evidence(
        window=window,
        traces=len(traces),
        groups=len(groups),
        first_step=min(steps, default=None),
        last_step=max(steps, default=None),
        means=means([row.features for row in measured.rows]),
        drift=dict(measured.drift),
        correlation=dict(measured.correlation),
        reward_mean=fmean(rewards),
        reward_std=pstdev(rewards),
        reward_drift=_reward_drift(traces, baselines),
        group_std=fmean(pstdev([t.reward for t in group]) for group in groups) if groups else 0.0,
        saturated_share=fmean(reward >= SATURATED for reward in rewards),
        floored_share=fmean(reward <= FLOORED for reward in rewards),
        zero_variance_groups=zero_variance_share(traces),
        flagged_share=fmean(bool(trace.flags) for trace in traces),
        flag_shares=_flag_shares(traces),
        languages=shares([row.language for row in measured.rows]),
        endings=shares([row.ending for row in measured.rows]),
        criteria=criterion_figures(traces, rubric) if rubric is not None else {},
        audit=audit,
        baseline_traces=len(known),
        alarms=tuple(alarms),
    )


def criterion_figures(traces: Sequence[Trace], rubric: Rubric) -> dict[str, CriterionFigures]:
    """What each criterion of `rubric` did, on the traces that were scored by it in full."""
    wanted = {criterion.id for criterion in rubric.criteria}
    scored = [(t, _scores(t)) for t in traces if t.digest == rubric.digest]
    whole = [(trace, found) for trace, found in scored if wanted <= set(found)]
    if not whole:
        return {}
    kept = {trace.trace_id: found for trace, found in whole}
    groups = by_group([trace for trace, _ in whole])
    raw = [trace.raw for trace, _ in whole]
    figures = {}
    for criterion in rubric.criteria:
        values = [found[criterion.id][0] for _, found in whole]
        flat = [all_equal([kept[t.trace_id][criterion.id][0] for t in group]) for group in groups]
        figures[criterion.id] = CriterionFigures(
            traces=len(whole),
            mean=fmean(values),
            std=pstdev(values),
            confidence=fmean(found[criterion.id][1] for _, found in whole),
            flat_groups=fmean(flat) if flat else 0.0,
            contribution=_contribution(criterion, values, raw, rubric.total_weight(Role.AWARD)),
        )
    return figures


def _scores(trace: Trace) -> dict[str, tuple[float, float]]:
    """Score and confidence by criterion, of those that have a score."""
    return {c.id: (c.score, c.confidence or 0.0) for c in trace.criteria if c.score is not None}


def _contribution(criterion: Criterion, values: Sequence[float], raw: Sequence[float], award: float) -> float:
    """Cov(weighted score, raw) / var(raw). A check states what is wanted, so its score raises the sum in any role."""
    if len(raw) < 2 or all_equal(raw) or criterion.role is Role.VETO:
        return 0.0
    falls = criterion.role is Role.DEDUCT and not isinstance(criterion, CheckCriterion)
    slope = (-1.0 if falls else 1.0) * criterion.weight / award
    return slope * covariance(values, raw) / variance(raw)


def _drift(
    traces: Sequence[Trace], rows: Sequence[TextFeatures], baselines: Baselines
) -> tuple[dict[str, float], dict[str, float]]:
    """Means of the first steps, and how far the window is from them: each run from its own, weighted by its traces."""
    own: defaultdict[str | None, list[dict[str, float]]] = defaultdict(list)
    for trace, row in zip(traces, rows, strict=True):
        if baselines.get(trace.run):
            own[trace.run].append(row.features)
    count = sum(map(len, own.values()))
    names = rows[0].features
    first, drift = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for run, found in own.items():
        then, now = means([row.features for row in extract_features(baselines[run])]), means(found)
        for name in names:
            first[name] += then[name] * len(found) / count
            drift[name] += (now[name] - then[name]) * len(found) / count
    return first, drift


def _reward_drift(traces: Sequence[Trace], baselines: Baselines) -> float:
    then = {run: fmean(trace.reward for trace in first) for run, first in baselines.items() if first}
    now = [trace.reward - then[trace.run] for trace in traces if trace.run in then]
    return fmean(now) if now else 0.0


def _flag_drift(traces: Sequence[Trace], baselines: Baselines) -> dict[str, float]:
    """How much more often each flag is raised than in the first steps; where those are unknown, than never."""
    first = _flag_shares(_baseline_traces(traces, baselines))
    return {flag: share - first.get(flag, 0.0) for flag, share in _flag_shares(traces).items()}


def _baseline_traces(traces: Sequence[Trace], baselines: Baselines) -> list[Trace]:
    runs = sorted({trace.run for trace in traces}, key=str)
    return [first for run in runs for first in baselines.get(run, ())]


def _flag_shares(traces: Sequence[Trace]) -> dict[str, float]:
    """What the policy is trying."""
    counts = Counter(flag for trace in traces for flag in trace.flags)
    return {flag: count / len(traces) for flag, count in sorted(counts.items())}
