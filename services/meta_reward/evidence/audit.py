"""The audit: a second opinion on a share of the traces, from a judge or a rubric that no policy trains on. Pure.

A reward that rises while the audit falls is a rubric being lived off (over-optimisation; an independent judge shows it,
and the reward itself never does). Both changes have to be sure, since few traces are audited.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, fmean, variance
from typing import NamedTuple

from regrade.contracts import Audited, AuditFigures
from services.kit.store.redis import entry_position

_CONFIDENCE = 0.95
_MIN_TRACES = 8

AuditEntries = Sequence[tuple[str, Audited]]
"""Audited traces by their ids in the trace stream, oldest first."""


class AuditChange(NamedTuple):
    """The least by which the reward rose and the audit fell, each being sure; `later` is what shows it."""

    reward_rise: float
    audit_fall: float
    later: tuple[Audited, ...]

    @property
    def contradiction(self) -> float:
        """How far the two went apart for sure; 0 or less where they may not have."""
        return min(self.reward_rise, self.audit_fall)

    @property
    def clearest(self) -> list[Audited]:
        """The later traces, those whose reward the audit contradicts most first."""
        return sorted(self.later, key=lambda one: (one.audit or 0.0) - one.reward)


def with_score(audits: AuditEntries) -> list[tuple[str, Audited]]:
    """Those that the audit judge gave a score."""
    return [(entry_id, one) for entry_id, one in audits if one.audit is not None]


def change_since_activation(audits: AuditEntries, digest: str, window: int) -> AuditChange | None:
    """The newest audited traces under a rubric against its first ones; None while there are too few."""
    under = [one for _, one in with_score(audits) if one.digest == digest]
    return _change(under[:window], under[window:][-window:], max(_MIN_TRACES, window // 2))


def change_by_activation(
    audits: AuditEntries, previous: str, digest: str, activation: str, window: int
) -> AuditChange | None:
    """What an activation (by its id) did: the first audited traces under it against the last ones before.

    Or the second half of them against the first, where that is the clearer contradiction: a rubric stricter than the
    one before lowers the reward at once, and it may climb from there. None while there are too few.
    """
    after = [one for entry_id, one in with_score(audits) if one.digest == digest and _is_after(entry_id, activation)]
    if len(after) < window:
        return None
    after, half = after[:window], window // 2
    before = [
        one for entry_id, one in with_score(audits) if one.digest == previous and not _is_after(entry_id, activation)
    ]
    changes = [_change(before[-window:], after, _MIN_TRACES), _change(after[:half], after[half:], half)]
    return max((change for change in changes if change is not None), key=lambda c: c.contradiction, default=None)


def audit_figures(audits: AuditEntries, window: tuple[str, str], digest: str, compared: int) -> AuditFigures:
    """What the audit says of the traces in `window` (ids: after, up to and including) and under the active rubric."""
    after, end = map(entry_position, window)
    within = [one for entry_id, one in with_score(audits) if after < entry_position(entry_id) <= end]
    change = change_since_activation(audits, digest, compared)
    return AuditFigures(
        traces=len(within),
        reward_mean=fmean(one.reward for one in within) if within else None,
        audit_mean=fmean(one.audit or 0.0 for one in within) if within else None,
        reward_rise=change.reward_rise if change else None,
        audit_fall=change.audit_fall if change else None,
    )


def _is_after(entry_id: str, other: str) -> bool:
    return entry_position(entry_id) > entry_position(other)


def _change(earlier: Sequence[Audited], later: Sequence[Audited], fewest: int) -> AuditChange | None:
    if min(len(earlier), len(later)) < fewest:
        return None
    rewards = [[one.reward for one in part] for part in (earlier, later)]
    audits = [[one.audit or 0.0 for one in part] for part in (earlier, later)]
    return AuditChange(_rise_lower_bound(*rewards), _rise_lower_bound(audits[1], audits[0]), tuple(later))


def _rise_lower_bound(earlier: Sequence[float], later: Sequence[float]) -> float:
    """The lower bound of how much the mean rose (Welch's, by the normal distribution)."""
    error = sqrt(variance(earlier) / len(earlier) + variance(later) / len(later))
    return fmean(later) - fmean(earlier) - NormalDist().inv_cdf(_CONFIDENCE) * error
