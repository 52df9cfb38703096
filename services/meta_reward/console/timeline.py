"""The lineage as people read it: a cycle's events together, and where every rubric has come to. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from regrade.contracts import EventKind, GateReport, LineageEvent

CHANGES = (EventKind.ACTIVATED, EventKind.ROLLED_BACK)


class CycleGroup(NamedTuple):
    """What one cycle did to the lineage, or one event without a cycle; events newest first."""

    cycle: str | None
    time: float
    events: tuple[LineageEvent, ...]

    @property
    def change(self) -> LineageEvent | None:
        """The activation or rollback in it, if there is one."""
        return next((event for event in self.events if event.kind in CHANGES), None)

    @property
    def refused(self) -> int:
        """Candidates that did not come through."""
        return sum(event.kind is EventKind.REJECTED for event in self.events)


def cycle_groups(events: Sequence[LineageEvent]) -> list[CycleGroup]:
    """Events (oldest first) as chapters, newest first."""
    found: list[list[LineageEvent]] = []
    for event in reversed(events):
        if found and event.cycle is not None and found[-1][-1].cycle == event.cycle:
            found[-1].append(event)
        else:
            found.append([event])
    return [CycleGroup(group[0].cycle, group[0].time, tuple(group)) for group in found]


class RubricStatus(NamedTuple):
    """A rubric somebody may want to look at: its digest, what to call it, and what became of it."""

    digest: str
    label: str
    status: str


def rubric_statuses(events: Sequence[LineageEvent], active: str | None) -> list[RubricStatus]:
    """Every rubric of these events, newest first, by what happened to it last."""
    found: dict[str, RubricStatus] = {}
    for event in reversed(events):
        if event.kind is EventKind.FAILED or event.digest in found:
            continue
        version = next((e.version for e in events if e.digest == event.digest and e.version), None)
        label = f"v{version}" if version else event.digest[:8]
        found[event.digest] = RubricStatus(event.digest, label, status_of(event, version, event.digest == active))
    return list(found.values())


def status_of(last: LineageEvent, version: int | None, is_active: bool) -> str:
    """One word for where a rubric stands."""
    if is_active:
        return "active"
    if last.kind is EventKind.REJECTED:
        return "rejected"
    return "earlier" if version else last.kind.value


class TimelineMark(NamedTuple):
    """One mark on the strip of a lineage: its column, and whether it is on the line of versions or beside it."""

    x: int
    kind: EventKind
    digest: str
    label: str
    note: str
    arc: int | None
    """Column of the version that a rollback goes back to."""


def timeline(events: Sequence[LineageEvent], most: int = 44) -> tuple[TimelineMark, ...]:
    """The newest verdicts and changes in a row, oldest first."""
    shown = [event for event in events if event.kind in (*CHANGES, EventKind.REJECTED)][-most:]
    columns: dict[str, int] = {}
    marks = []
    for x, event in enumerate(shown):
        back = columns.get(event.digest) if event.kind is EventKind.ROLLED_BACK else None
        if event.kind in CHANGES:
            columns[event.digest] = x
        label = f"v{event.version}" if event.version else ""
        note = f"{event.kind.value.replace('_', ' ')} {label or event.digest[:8]} by {event.by}: {event.reason}"
        marks.append(TimelineMark(x, event.kind, event.digest, label, note[:300], back))
    return tuple(marks)


def gates_of(events: Sequence[LineageEvent], digest: str) -> list[GateReport]:
    """What the gate measured of a rubric as a candidate, newest first."""
    return [e.gate for e in reversed(events) if e.gate is not None and e.digest == digest]
