"""Alarms: figures that have gone too far, each with the traces that show it. Pure; what is raised is kept in Redis.

An alarm is raised above one threshold and lowered below another, so that a figure between the two rings once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from regrade.contracts import Alarm, Audited, Flag, Trace
from services.meta_reward.evidence.rank_statistics import ranks
from services.meta_reward.evidence.window import FLOORED, SATURATED, WindowSummary, has_equal_rewards

_MAX_EXAMPLES = 8
_MIN_TRACES = 16
_MIN_GROUPS = 4


class AlarmThresholds(NamedTuple):
    """Raised above the first, lowered below the second."""

    above: float
    below: float


class Indicator(NamedTuple):
    """A figure, more being worse, its limits, and what answers the traces that show it, the clearest first."""

    name: str
    figure: float
    limits: AlarmThresholds
    examples: Callable[[], Iterable[Trace | Audited]]


DECREASE_RULES: Mapping[str, AlarmThresholds] = {
    "words": AlarmThresholds(0.3, 0.2),
    "distinct_4": AlarmThresholds(0.15, 0.1),
    "compression": AlarmThresholds(0.12, 0.08),
    "topic_overlap": AlarmThresholds(0.2, 0.13),
    "ends_properly": AlarmThresholds(0.2, 0.13),
}
INCREASE_RULES: Mapping[str, AlarmThresholds] = {
    "words": AlarmThresholds(1.0, 0.7),
    "prompt_copied": AlarmThresholds(0.2, 0.13),
    "other_language": AlarmThresholds(0.2, 0.1),
    "stock_opening": AlarmThresholds(0.3, 0.2),
    "stock_ending": AlarmThresholds(0.3, 0.2),
    "truncated": AlarmThresholds(0.3, 0.2),
}
_RELATIVE = frozenset({"words"})
"""Measured by the share of what it was."""
_CORRELATION = AlarmThresholds(0.7, 0.5)
_SHARE = AlarmThresholds(0.5, 0.35)
_FLAG = AlarmThresholds(0.1, 0.05)
_AUDIT = AlarmThresholds(0.02, 0.0)
AUDIT_CONTRADICTS = "audit_contradicts"
_POLICY_FLAGS = [flag for flag in Flag if flag not in (Flag.TRUNCATED, Flag.VETOED, Flag.UNPINNED)]
"""Flags for what a policy tries: how long it may write, what a rubric forbids and where Redis was is another matter."""


def update_alarms(measured: WindowSummary, raised: Sequence[Alarm], end: str) -> tuple[Alarm, ...]:
    """The alarms that stand after a window ending at `end`, given those that stood before it.

    One whose figure cannot be told from this window (too few traces or groups) stays as it was.
    """
    standing = {alarm.name: alarm for alarm in raised}
    for finding in _indicators(measured):
        before = standing.pop(finding.name, None)
        if finding.figure > finding.limits.above:
            shown = tuple(trace.trace_id for trace, _ in zip(finding.examples(), range(_MAX_EXAMPLES), strict=False))
            standing[finding.name] = Alarm(
                name=finding.name,
                figure=finding.figure,
                threshold=finding.limits.above,
                lowered_at=finding.limits.below,
                since=before.since if before else end,
                traces=shown,
            )
        elif before is not None and finding.figure >= finding.limits.below:
            standing[finding.name] = before.model_copy(update={"figure": finding.figure})
    return tuple(standing[name] for name in sorted(standing))


def _indicators(measured: WindowSummary) -> Iterator[Indicator]:
    yield from _drift_indicators(measured)
    if len(measured.traces) >= _MIN_TRACES:
        yield from _correlation_indicators(measured)
    yield from _reward_indicators(measured)
    yield from _flag_indicators(measured)
    if measured.audit is not None:
        change = measured.audit
        yield Indicator(AUDIT_CONTRADICTS, change.contradiction, _AUDIT, lambda: change.clearest)


def _drift_indicators(measured: WindowSummary) -> Iterator[Indicator]:
    for rules, sign, verb in ((DECREASE_RULES, -1.0, "fell"), (INCREASE_RULES, 1.0, "rose")):
        for name, limits in rules.items():
            scale = measured.first[name] if name in _RELATIVE else 1.0
            figure = sign * measured.drift[name] / scale if scale > 0.0 else 0.0
            yield Indicator(f"{name}_{verb}", figure, limits, _extremes(measured, name, sign))


def _extremes(measured: WindowSummary, feature: str, sign: float) -> Callable[[], list[Trace]]:
    """Those furthest out, of equals the better rewarded: they are what the policy learns from."""

    def found() -> list[Trace]:
        values = measured.column(feature)
        order = sorted(range(len(values)), key=lambda i: (-sign * values[i], -measured.traces[i].reward))
        return [measured.traces[i] for i in order]

    return found


def _correlation_indicators(measured: WindowSummary) -> Iterator[Indicator]:
    for name, r in measured.correlation.items():
        yield Indicator(
            f"reward_follows_{name}", abs(r), _CORRELATION, _most_correlated(measured, name, 1.0 if r >= 0.0 else -1.0)
        )


def _most_correlated(measured: WindowSummary, feature: str, sign: float) -> Callable[[], list[Trace]]:
    """Those whose reward and feature are both high (or, with a negative sign, the one high and the other low)."""

    def found() -> list[Trace]:
        by_feature = ranks([sign * value for value in measured.column(feature)])
        by_reward = ranks(measured.rewards)
        order = sorted(range(len(by_reward)), key=lambda i: -(by_feature[i] + by_reward[i]))
        return [measured.traces[i] for i in order]

    return found


def _reward_indicators(measured: WindowSummary) -> Iterator[Indicator]:
    traces = measured.traces
    high = [trace for trace in traces if trace.reward >= SATURATED]
    low = [trace for trace in traces if trace.reward <= FLOORED]
    yield Indicator("reward_saturated", len(high) / len(traces), _SHARE, lambda: high)
    yield Indicator("reward_floored", len(low) / len(traces), _SHARE, lambda: low)
    if len(measured.groups) >= _MIN_GROUPS:
        level = [group for group in measured.groups if has_equal_rewards(group)]
        share = len(level) / len(measured.groups)
        yield Indicator("groups_without_spread", share, _SHARE, lambda: (t for group in level for t in group))


def _flag_indicators(measured: WindowSummary) -> Iterator[Indicator]:
    """A flag that nobody raises any more is a figure of 0: that lowers its alarm."""
    for flag in _POLICY_FLAGS:
        yield Indicator(
            f"flag_{flag}_rose", measured.flag_drift.get(flag, 0.0), _FLAG, _traces_with_flag(measured, flag)
        )


def _traces_with_flag(measured: WindowSummary, flag: str) -> Callable[[], Iterator[Trace]]:
    return lambda: (trace for trace in measured.traces if flag in trace.flags)
