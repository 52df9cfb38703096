"""Watch: whether a newly active rubric has to go again. Pure."""

from collections.abc import Sequence

from regrade.contracts import Trace
from services.meta_reward.evidence.audit import AuditChange
from services.meta_reward.evidence.window import by_group, has_equal_rewards

_COLLAPSED = 0.8
_MUCH_WORSE = 0.4
_FEWEST = 4
_SHARE = 1 / 8
"""Of the traces, at least so many have to be in groups that count, and so large a share: a tied pair shows nothing."""
_CLEARLY_BELOW = 0.2
_CONTRADICTED = 0.02
_NAMED = 4


def spread_collapse_reason(
    before: Sequence[Trace], after: Sequence[Trace], trusted_mean: float | None = None
) -> str | None:
    """Why the new rubric should go, or None: its groups lost their spread where no check explains it.

    A flagged completion, or one that a check scores 0, is bad on its own account, and so is one that the new
    rubric scores clearly below trusted text (`trusted_mean`, as the gate measured it): a policy that has
    collapsed must not get its old rubric back because everything it writes now scores the same. So a group counts
    unless all of it is bad, and then as a whole: what a check takes out of a group is spread, too. Without a few
    groups on either side there is nothing to compare: an unknown past is not taken for a better one.
    """
    flat_before, flat_after = _flat_share(before, None), _flat_share(after, trusted_mean)
    if flat_before is None or flat_after is None:
        return None
    if flat_after >= _COLLAPSED and flat_after - flat_before >= _MUCH_WORSE:
        return f"spread collapsed: {flat_after:.0%} of groups score all equal, {flat_before:.0%} before"
    return None


def audit_contradiction_reason(change: AuditChange) -> str | None:
    """Why the new rubric should go by the audit, or None: the reward climbed for sure, and the audit fell for sure."""
    if change.contradiction <= _CONTRADICTED:
        return None
    shown = ", ".join(one.trace_id for one in change.clearest[:_NAMED])
    return (
        f"audit contradicts: the reward rose by {change.reward_rise:.2f} and the audit fell by {change.audit_fall:.2f} "
        f"at least, on {len(change.later)} audited traces (clearest: {shown})"
    )


def _flat_share(traces: Sequence[Trace], trusted_mean: float | None) -> float | None:
    """Share of groups whose rewards are all equal, of those that hold a completion worth telling apart."""
    groups = [group for group in by_group(traces) if not all(_explained(trace, trusted_mean) for trace in group)]
    if sum(map(len, groups)) < max(_FEWEST, _SHARE * len(traces)):
        return None
    return sum(map(has_equal_rewards, groups)) / len(groups)


def _explained(trace: Trace, trusted_mean: float | None) -> bool:
    if trusted_mean is not None and trace.reward <= trusted_mean - _CLEARLY_BELOW:
        return True
    return bool(trace.flags) or any(c.score == 0.0 and c.confidence == 1.0 for c in trace.criteria)
