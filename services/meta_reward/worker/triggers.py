"""When a cycle is due that nobody asked for: on an alarm, after so many traces or steps, or by age. Pure."""

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
    """What calls for a cycle, or None. `waiting` are the traces behind the line's `cursor`; `now` in Unix seconds."""
    if status.paused is not None or not pending:
        return None
    wait_factor = min(settings.longest_wait, 2 ** max(0, min(status.fruitless, 32) - 1))
    alarmed = None
    if not status.fruitless or len(pending) >= wait_factor * settings.alarm_traces:
        alarmed = _alarmed(alarms, cursor)
    return alarmed or _counted(settings, wait_factor, pending) or _aged(settings, pending, now)


def _alarmed(alarms: Sequence[Alarm], cursor: str) -> str | None:
    """Alarms raised by traces that no finished cycle has consumed: one that goes on ringing calls once.

    Each call costs a gate's decision; so behind cycles that brought nothing an alarm waits for ever more traces.
    """
    new = [alarm for alarm in alarms if entry_position(alarm.since) > entry_position(cursor)]
    listed = ", ".join(f"{alarm.name} ({alarm.figure:.2f}, raised above {alarm.threshold:.2f})" for alarm in new)
    return f"alarm: {listed}" if listed else None


def _counted(settings: MetaRewardSettings, wait_factor: int, pending: Sequence[Trace]) -> str | None:
    if len(pending) >= min(settings.max_window, wait_factor * settings.every_traces):
        return f"{len(pending)} new traces"
    steps = {(trace.run, trace.step) for trace in pending if trace.step is not None}
    wanted = settings.steps_for(pending[0].task)
    if wanted and len(steps) >= wait_factor * wanted:
        return f"{len(steps)} new steps"
    return None


def _aged(settings: MetaRewardSettings, pending: Sequence[Trace], now: float) -> str | None:
    """A run that has ended leaves a few traces that no count would ever take up; they would stay in Redis for good."""
    waited_s = now - pending[0].time
    return f"a trace has waited for {waited_s / 3_600:.0f} h" if 0.0 < settings.every_s <= waited_s else None
