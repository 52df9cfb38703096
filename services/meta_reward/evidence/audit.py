"""Audit: second scores for a share of the traces, from a judge or a rubric that no policy trains on. Pure.

A reward that rises while the audit falls shows over-optimisation: the policy exploits the rubric, which the reward
itself never shows. Few traces are audited, so changes are given as lower confidence bounds.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, fmean, variance
from typing import NamedTuple

from regrade.contracts import Audited, AuditFigures
from services.kit.store.redis import entry_position

_CONFIDENCE = 0.95
"""One-sided, for each of the two changes; both have to exceed their threshold, so false alarms are rarer than 5 %."""
_MIN_TRACES = 8
"""A variance from fewer traces is too uncertain for the normal approximation."""

AuditEntries = Sequence[tuple[str, Audited]]
"""(id in the trace stream, audited trace), oldest first."""


class AuditChange(NamedTuple):
    """Lower confidence bounds of how much the reward rose and the audit fell, and the later of the traces compared."""

    reward_rise: float
    audit_fall: float
    later: tuple[Audited, ...]

    @property
    def contradiction(self) -> float:
        """The smaller of the two bounds; above 0 the reward rose and the audit fell, with confidence."""
        return min(self.reward_rise, self.audit_fall)

    @property
    def examples(self) -> list[Audited]:
        """The later traces, sorted by how far the reward exceeds the audit."""
        return sorted(self.later, key=lambda trace: (trace.audit or 0.0) - trace.reward)


def with_score(audits: AuditEntries) -> list[tuple[str, Audited]]:
    """The entries for which the audit judge gave a score."""
    return [(entry_id, trace) for entry_id, trace in audits if trace.audit is not None]


def change_since_activation(audits: AuditEntries, digest: str, window: int) -> AuditChange | None:
    """The newest audited traces under a rubric against its first ones; None for fewer than a window and a half."""
    own = [trace for _, trace in with_score(audits) if trace.digest == digest]
    return _change(own[:window], own[window:][-window:], max(_MIN_TRACES, window // 2))


def change_by_activation(
    audits: AuditEntries, previous: str, digest: str, activation: str, window: int
) -> AuditChange | None:
    """The effect of an activation (by its event id): the first audited traces after it against the last before it.

    Or the second half of those after it against the first half, where that contradicts more: a stricter rubric lowers
    the reward at once, and the reward may rise from there. None for fewer than `window` traces after it.
    """
    scored = with_score(audits)
    at = entry_position(activation)
    after = [trace for entry_id, trace in scored if trace.digest == digest and entry_position(entry_id) > at]
    if len(after) < window:
        return None
    after, half = after[:window], window // 2
    before = [trace for entry_id, trace in scored if trace.digest == previous and entry_position(entry_id) <= at]
    changes = [_change(before[-window:], after, _MIN_TRACES), _change(after[:half], after[half:], half)]
    return max((change for change in changes if change is not None), key=lambda c: c.contradiction, default=None)


def audit_figures(audits: AuditEntries, window: tuple[str, str], digest: str, compared: int) -> AuditFigures:
    """The audit of a window (ids: after, up to and including), and its change under the active rubric."""
    after, end = map(entry_position, window)
    within = [trace for entry_id, trace in with_score(audits) if after < entry_position(entry_id) <= end]
    change = change_since_activation(audits, digest, compared)
    return AuditFigures(
        traces=len(within),
        reward_mean=fmean(trace.reward for trace in within) if within else None,
        audit_mean=fmean(trace.audit or 0.0 for trace in within) if within else None,
        reward_rise=change.reward_rise if change else None,
        audit_fall=change.audit_fall if change else None,
    )


def _change(earlier: Sequence[Audited], later: Sequence[Audited], min_traces: int) -> AuditChange | None:
    if min(len(earlier), len(later)) < min_traces:
        return None
    rewards = [[trace.reward for trace in part] for part in (earlier, later)]
    audits = [[trace.audit or 0.0 for trace in part] for part in (earlier, later)]
    return AuditChange(_rise_lower_bound(*rewards), _rise_lower_bound(audits[1], audits[0]), tuple(later))


def _rise_lower_bound(earlier: Sequence[float], later: Sequence[float]) -> float:
    """Lower confidence bound of the difference of means: Welch's standard error, normal quantile."""
    error = sqrt(variance(earlier) / len(earlier) + variance(later) / len(later))
    return fmean(later) - fmean(earlier) - NormalDist().inv_cdf(_CONFIDENCE) * error
