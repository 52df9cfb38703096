"""The watch's rules: whether a newly activated rubric has to be rolled back. Pure."""

from collections.abc import Sequence

from regrade.contracts import Trace
from services.meta_reward.evidence.audit import AuditChange
from services.meta_reward.evidence.window import by_group, has_equal_rewards

_COLLAPSED = 0.8
"""Share of groups with equal rewards that counts as collapsed: four in five groups give no gradient."""
_MIN_RISE = 0.4
"""Rise of that share since the rubric before. A run whose groups were mostly equal already has no cause to go back."""
_MIN_TRACES = 4
_MIN_TRACE_SHARE = 1 / 8
"""A comparison needs this many traces, and this share of them, in groups that count: one tied pair proves nothing."""
_BELOW_TRUSTED = 0.2
"""A reward this far below the mean of trusted text marks a bad completion."""
_MIN_CONTRADICTION = 0.02
"""Both confidence bounds of the audit must exceed this. Smaller changes are within the judge's rounding."""
_MAX_EXAMPLES = 4


def spread_collapse_reason(
    before: Sequence[Trace], after: Sequence[Trace], trusted_mean: float | None = None
) -> str | None:
    """The reason to roll back because groups lost their spread of rewards under the new rubric, or None.

    `before` and `after` are traces under the old and the new rubric; `trusted_mean` is the gate's mean reward of
    trusted text under the new one. Groups of bad completions only are left out, so that a policy that has collapsed
    does not get its old rubric back; see `_is_bad`. A group with one good completion counts as a whole, because what a
    check takes from the others is spread, too. Without enough groups on both sides the answer is None.
    """
    equal_before, equal_after = _equal_share(before, None), _equal_share(after, trusted_mean)
    if equal_before is None or equal_after is None:
        return None
    if equal_after >= _COLLAPSED and equal_after - equal_before >= _MIN_RISE:
        return f"spread collapsed: {equal_after:.0%} of groups score all equal, {equal_before:.0%} before"
    return None


def audit_contradiction_reason(change: AuditChange) -> str | None:
    """The reason to roll back because the reward rose and the audit fell, both with confidence, or None."""
    if change.contradiction <= _MIN_CONTRADICTION:
        return None
    examples = ", ".join(one.trace_id for one in change.examples[:_MAX_EXAMPLES])
    return (
        f"audit contradicts: the reward rose by {change.reward_rise:.2f} and the audit fell by {change.audit_fall:.2f} "
        f"at least, on {len(change.later)} audited traces (clearest: {examples})"
    )


def _equal_share(traces: Sequence[Trace], trusted_mean: float | None) -> float | None:
    """Share of groups with equal rewards, among groups that hold a good completion."""
    groups = [group for group in by_group(traces) if not all(_is_bad(trace, trusted_mean) for trace in group)]
    if sum(map(len, groups)) < max(_MIN_TRACES, _MIN_TRACE_SHARE * len(traces)):
        return None
    return sum(map(has_equal_rewards, groups)) / len(groups)


def _is_bad(trace: Trace, trusted_mean: float | None) -> bool:
    """Whether a completion is flagged, scored 0 by a check, or rewarded far below trusted text."""
    if trusted_mean is not None and trace.reward <= trusted_mean - _BELOW_TRUSTED:
        return True
    return bool(trace.flags) or any(c.score == 0.0 and c.confidence == 1.0 for c in trace.criteria)
