"""Whether a cycle is due without a request: by an alarm, a number of traces or steps, or the age of a trace. Pure."""

from collections.abc import Sequence

from regrade.contracts import Alarm, CycleStatus, Trace
from services.kit.store.redis import entry_position
from services.meta_reward.settings import MetaRewardSettings


def due_trigger(
    settings: MetaRewardSettings,
    status: CycleStatus,
    pending: Sequence[Trace],
    alarms: Sequence[Alarm],
    cursor: str,
    now: float,
) -> str | None:
    """The reason that a cycle is due, or None. `pending` are the traces behind `cursor`; `now` is Unix seconds.

    Every decision of the gate spends error level, so after cycles without an activation the number of traces and steps
    is doubled, up to `longest_wait` times, and an alarm also waits for more traces.
    """
    if status.paused is not None or not pending:
        return None
    factor = min(settings.longest_wait, 2 ** max(0, min(status.fruitless, 32) - 1))
    if not status.fruitless or len(pending) >= factor * settings.alarm_traces:
        reason = _by_alarm(alarms, cursor)
        if reason is not None:
            return reason
    return _by_count(settings, factor, pending) or _by_age(settings, pending, now)


def _by_alarm(alarms: Sequence[Alarm], cursor: str) -> str | None:
    """Alarms raised by traces behind the cursor: an alarm starts one cycle until it clears."""
    new = [alarm for alarm in alarms if entry_position(alarm.since) > entry_position(cursor)]
    texts = ", ".join(f"{alarm.name} ({alarm.figure:.2f}, raised above {alarm.threshold:.2f})" for alarm in new)
    return f"alarm: {texts}" if texts else None


def _by_count(settings: MetaRewardSettings, factor: int, pending: Sequence[Trace]) -> str | None:
    if len(pending) >= min(settings.max_window, factor * settings.every_traces):
        return f"{len(pending)} new traces"
    steps = {(trace.run, trace.step) for trace in pending if trace.step is not None}
    needed = settings.steps_for(pending[0].task)
    return f"{len(steps)} new steps" if needed and len(steps) >= factor * needed else None


def _by_age(settings: MetaRewardSettings, pending: Sequence[Trace], now: float) -> str | None:
    """The last traces of a run reach no count; without this trigger they would stay in Redis for good."""
    age_s = now - pending[0].time
    return f"a trace has waited for {age_s / 3_600:.0f} h" if 0.0 < settings.every_s <= age_s else None
