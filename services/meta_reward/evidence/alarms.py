"""Alarms: figures of a window that went too far, each with example traces. Pure; raised alarms are kept in Redis.

A new alarm is a generator of indicators and an entry in `INDICATORS` (docs/extend.md). For a drift of a text feature, a
line in `DECREASE_RULES` or `INCREASE_RULES` is enough.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from regrade.contracts import Alarm, Flag, Trace
from services.meta_reward.evidence.indicator import AlarmThresholds, Indicator
from services.meta_reward.evidence.rank_statistics import ranks
from services.meta_reward.evidence.window import FLOORED, SATURATED, WindowSummary, has_equal_rewards

_MAX_EXAMPLES = 8
_MIN_TRACES = 16
"""With fewer traces a rank correlation of 0.5 is within chance."""
_MIN_GROUPS = 4

DECREASE_RULES: Mapping[str, AlarmThresholds] = {
    "words": AlarmThresholds(0.3, 0.2),
    "distinct_4": AlarmThresholds(0.15, 0.1),
    "compression": AlarmThresholds(0.12, 0.08),
    "topic_overlap": AlarmThresholds(0.2, 0.13),
    "ends_properly": AlarmThresholds(0.2, 0.13),
}
"""By text feature: how far its mean may fall below that of the runs' first steps. Clearing takes a third less."""
INCREASE_RULES: Mapping[str, AlarmThresholds] = {
    "words": AlarmThresholds(1.0, 0.7),
    "prompt_copied": AlarmThresholds(0.2, 0.13),
    "other_language": AlarmThresholds(0.2, 0.1),
    "stock_opening": AlarmThresholds(0.3, 0.2),
    "stock_ending": AlarmThresholds(0.3, 0.2),
    "truncated": AlarmThresholds(0.3, 0.2),
}
_RELATIVE = frozenset({"words"})
"""Features whose drift is divided by their first mean; the others are shares already."""
_CORRELATION = AlarmThresholds(0.7, 0.5)
"""Above 0.7, half of the variance of the reward's ranks is explained by one surface feature."""
_SHARE = AlarmThresholds(0.5, 0.35)
"""Above one half, most of the window gives no gradient."""
_FLAG = AlarmThresholds(0.1, 0.05)
"""Low, since an attack that pays spreads within a few steps."""
_AUDIT_CONTRADICTION = AlarmThresholds(0.02, 0.0)
"""Low, since both changes are lower confidence bounds already."""
AUDIT_CONTRADICTS = "audit_contradicts"
_POLICY_FLAGS = [flag for flag in Flag if flag not in (Flag.TRUNCATED, Flag.VETOED, Flag.UNPINNED)]
"""Flags of what a policy tries, not of token limits, rubrics or outages."""


def update_alarms(summary: WindowSummary, raised: Sequence[Alarm], end: str) -> tuple[Alarm, ...]:
    """The alarms that are raised after a window ending at trace id `end`, given those raised before it.

    An alarm without an indicator in this window (too few traces or groups) stays raised.
    """
    alarms = {alarm.name: alarm for alarm in raised}
    for indicator in (indicator for indicators in INDICATORS for indicator in indicators(summary)):
        before = alarms.pop(indicator.name, None)
        if indicator.figure > indicator.thresholds.raised_above:
            examples = [trace.trace_id for trace, _ in zip(indicator.examples(), range(_MAX_EXAMPLES), strict=False)]
            alarms[indicator.name] = Alarm(
                name=indicator.name,
                figure=indicator.figure,
                threshold=indicator.thresholds.raised_above,
                lowered_at=indicator.thresholds.cleared_below,
                since=before.since if before else end,
                traces=tuple(examples),
            )
        elif before is not None and indicator.figure >= indicator.thresholds.cleared_below:
            alarms[indicator.name] = before.model_copy(update={"figure": indicator.figure})
    return tuple(alarms[name] for name in sorted(alarms))


def _drift(summary: WindowSummary) -> Iterator[Indicator]:
    for rules, sign, verb in ((DECREASE_RULES, -1.0, "fell"), (INCREASE_RULES, 1.0, "rose")):
        for name, thresholds in rules.items():
            scale = summary.first[name] if name in _RELATIVE else 1.0
            figure = sign * summary.drift[name] / scale if scale > 0.0 else 0.0
            yield Indicator(f"{name}_{verb}", figure, thresholds, partial(_extremes, summary, name, sign))


def _extremes(summary: WindowSummary, feature: str, sign: float) -> list[Trace]:
    """The most extreme traces first, of equal ones the better rewarded, from which the policy learns."""
    values = summary.column(feature)
    order = sorted(range(len(values)), key=lambda i: (-sign * values[i], -summary.traces[i].reward))
    return [summary.traces[i] for i in order]


def _correlation(summary: WindowSummary) -> Iterator[Indicator]:
    if len(summary.traces) < _MIN_TRACES:
        return
    for name, r in summary.correlation.items():
        examples = partial(_most_correlated, summary, name, 1.0 if r >= 0.0 else -1.0)
        yield Indicator(f"reward_follows_{name}", abs(r), _CORRELATION, examples)


def _most_correlated(summary: WindowSummary, feature: str, sign: float) -> list[Trace]:
    """Traces with a high reward and a high value of the feature first; a low value where the sign is negative."""
    by_feature = ranks([sign * value for value in summary.column(feature)])
    by_reward = ranks(summary.rewards)
    order = sorted(range(len(by_reward)), key=lambda i: -(by_feature[i] + by_reward[i]))
    return [summary.traces[i] for i in order]


def _rewards(summary: WindowSummary) -> Iterator[Indicator]:
    traces = summary.traces
    high = [trace for trace in traces if trace.reward >= SATURATED]
    low = [trace for trace in traces if trace.reward <= FLOORED]
    yield Indicator("reward_saturated", len(high) / len(traces), _SHARE, lambda: high)
    yield Indicator("reward_floored", len(low) / len(traces), _SHARE, lambda: low)
    if len(summary.groups) >= _MIN_GROUPS:
        equal = [group for group in summary.groups if has_equal_rewards(group)]
        share = len(equal) / len(summary.groups)
        yield Indicator("groups_without_spread", share, _SHARE, lambda: (t for group in equal for t in group))


def _flags(summary: WindowSummary) -> Iterator[Indicator]:
    """One for every flag: one that is not in the window has the figure 0, which clears its alarm."""
    for flag in _POLICY_FLAGS:
        examples = partial(_flagged, summary, flag)
        yield Indicator(f"flag_{flag}_rose", summary.flag_drift.get(flag, 0.0), _FLAG, examples)


def _flagged(summary: WindowSummary, flag: str) -> list[Trace]:
    return [trace for trace in summary.traces if flag in trace.flags]


def _audit(summary: WindowSummary) -> Iterator[Indicator]:
    change = summary.audit
    if change is not None:
        yield Indicator(AUDIT_CONTRADICTS, change.contradiction, _AUDIT_CONTRADICTION, lambda: change.examples)


INDICATORS: tuple[Callable[[WindowSummary], Iterator[Indicator]], ...] = (
    _drift,
    _correlation,
    _rewards,
    _flags,
    _audit,
)
