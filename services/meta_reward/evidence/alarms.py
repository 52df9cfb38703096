"""Alarms: figures that have gone too far, each with the traces that show it. Pure; what is raised is kept in Redis.

An alarm is raised above one threshold and lowered below another, so that a figure between the two rings once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from regrade.contracts import Alarm, Audited, Flag, Trace
from services.meta_reward.evidence.rank_statistics import ranks
from services.meta_reward.evidence.window import FLOORED, SATURATED, Measured, is_level

_NAMED = 8
_FEWEST_TRACES = 16
_FEWEST_GROUPS = 4


class Limits(NamedTuple):
    """Raised above the first, lowered below the second."""

    above: float
    below: float


class Finding(NamedTuple):
    """A figure, more being worse, its limits, and what answers the traces that show it, the clearest first."""

    name: str
    figure: float
    limits: Limits
    culprits: Callable[[], Iterable[Trace | Audited]]


_FELL: Mapping[str, Limits] = {
    "words": Limits(0.3, 0.2),
    "distinct_4": Limits(0.15, 0.1),
    "compression": Limits(0.12, 0.08),
    "topic_overlap": Limits(0.2, 0.13),
    "ends_properly": Limits(0.2, 0.13),
}
_ROSE: Mapping[str, Limits] = {
    "words": Limits(1.0, 0.7),
    "prompt_copied": Limits(0.2, 0.13),
    "other_language": Limits(0.2, 0.1),
    "stock_opening": Limits(0.3, 0.2),
    "stock_ending": Limits(0.3, 0.2),
    "truncated": Limits(0.3, 0.2),
}
_RELATIVE = frozenset({"words"})
"""Measured by the share of what it was."""
_FOLLOWS = Limits(0.7, 0.5)
_SHARE = Limits(0.5, 0.35)
_FLAG = Limits(0.1, 0.05)
_CONTRADICTS = Limits(0.02, 0.0)
AUDIT_CONTRADICTS = "audit_contradicts"
_TRIED = [flag for flag in Flag if flag not in (Flag.TRUNCATED, Flag.VETOED, Flag.UNPINNED)]
"""Flags for what a policy tries: how long it may write, what a rubric forbids and where Redis was is another matter."""


def ring(measured: Measured, raised: Sequence[Alarm], end: str) -> tuple[Alarm, ...]:
    """The alarms that stand after a window ending at `end`, given those that stood before it.

    One whose figure cannot be told from this window (too few traces or groups) stays as it was.
    """
    standing = {alarm.name: alarm for alarm in raised}
    for finding in _findings(measured):
        before = standing.pop(finding.name, None)
        if finding.figure > finding.limits.above:
            shown = tuple(trace.trace_id for trace, _ in zip(finding.culprits(), range(_NAMED), strict=False))
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


def _findings(measured: Measured) -> Iterator[Finding]:
    yield from _drifts(measured)
    if len(measured.traces) >= _FEWEST_TRACES:
        yield from _followed(measured)
    yield from _levels(measured)
    yield from _flags(measured)
    if measured.audit is not None:
        change = measured.audit
        yield Finding(AUDIT_CONTRADICTS, change.contradiction, _CONTRADICTS, lambda: change.clearest)


def _drifts(measured: Measured) -> Iterator[Finding]:
    for rules, sign, verb in ((_FELL, -1.0, "fell"), (_ROSE, 1.0, "rose")):
        for name, limits in rules.items():
            scale = measured.first[name] if name in _RELATIVE else 1.0
            figure = sign * measured.drift[name] / scale if scale > 0.0 else 0.0
            yield Finding(f"{name}_{verb}", figure, limits, _extremes(measured, name, sign))


def _extremes(measured: Measured, feature: str, sign: float) -> Callable[[], list[Trace]]:
    """Those furthest out, of equals the better rewarded: they are what the policy learns from."""

    def found() -> list[Trace]:
        values = measured.column(feature)
        order = sorted(range(len(values)), key=lambda i: (-sign * values[i], -measured.traces[i].reward))
        return [measured.traces[i] for i in order]

    return found


def _followed(measured: Measured) -> Iterator[Finding]:
    for name, r in measured.correlation.items():
        yield Finding(f"reward_follows_{name}", abs(r), _FOLLOWS, _followers(measured, name, 1.0 if r >= 0.0 else -1.0))


def _followers(measured: Measured, feature: str, sign: float) -> Callable[[], list[Trace]]:
    """Those whose reward and feature are both high (or, with a negative sign, the one high and the other low)."""

    def found() -> list[Trace]:
        by_feature = ranks([sign * value for value in measured.column(feature)])
        by_reward = ranks(measured.rewards)
        order = sorted(range(len(by_reward)), key=lambda i: -(by_feature[i] + by_reward[i]))
        return [measured.traces[i] for i in order]

    return found


def _levels(measured: Measured) -> Iterator[Finding]:
    traces = measured.traces
    high = [trace for trace in traces if trace.reward >= SATURATED]
    low = [trace for trace in traces if trace.reward <= FLOORED]
    yield Finding("reward_saturated", len(high) / len(traces), _SHARE, lambda: high)
    yield Finding("reward_floored", len(low) / len(traces), _SHARE, lambda: low)
    if len(measured.groups) >= _FEWEST_GROUPS:
        level = [group for group in measured.groups if is_level(group)]
        share = len(level) / len(measured.groups)
        yield Finding("groups_without_spread", share, _SHARE, lambda: (t for group in level for t in group))


def _flags(measured: Measured) -> Iterator[Finding]:
    """A flag that nobody raises any more is a figure of 0: that lowers its alarm."""
    for flag in _TRIED:
        yield Finding(f"flag_{flag}_rose", measured.flag_drift.get(flag, 0.0), _FLAG, _flagged(measured, flag))


def _flagged(measured: Measured, flag: str) -> Callable[[], Iterator[Trace]]:
    return lambda: (trace for trace in measured.traces if flag in trace.flags)
