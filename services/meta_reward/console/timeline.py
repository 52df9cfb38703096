"""The lineage for display: events grouped by cycle, the status of every rubric, the marks of the timeline. Pure."""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

from regrade.contracts import EventKind, GateReport, LineageEvent

CHANGES = (EventKind.ACTIVATED, EventKind.ROLLED_BACK)
_MAX_MARKS = 44
"""Marks that fit a wide screen."""
_MAX_NOTE = 300


class CycleGroup(NamedTuple):
    """The events of one cycle, or one event outside any cycle; newest first."""

    cycle: str | None
    time: float
    events: tuple[LineageEvent, ...]

    @property
    def change(self) -> LineageEvent | None:
        """The activation or rollback among the events."""
        return next((event for event in self.events if event.kind in CHANGES), None)

    @property
    def refused(self) -> int:
        """Number of rejected candidates."""
        return sum(event.kind is EventKind.REJECTED for event in self.events)


def cycle_groups(events: Sequence[LineageEvent]) -> list[CycleGroup]:
    """Events (oldest first) grouped by cycle, newest group first."""
    groups = (tuple(group) for _, group in groupby(reversed(events), key=lambda event: event.cycle or event.id))
    return [CycleGroup(group[0].cycle, group[0].time, group) for group in groups]


class RubricStatus(NamedTuple):
    """A rubric of the lineage, its label, and its status in one word."""

    digest: str
    label: str
    status: str


def rubric_statuses(
    events: Sequence[LineageEvent], active: str | None, rolled_back: Collection[str]
) -> list[RubricStatus]:
    """Every rubric in these events (oldest first), newest first, with its status."""
    versions = {event.digest: event.version for event in reversed(events) if event.version}
    statuses: dict[str, RubricStatus] = {}
    for event in reversed(events):
        if event.kind is not EventKind.FAILED and event.digest not in statuses:
            version = versions.get(event.digest)
            label = f"v{version}" if version else "candidate"
            status = status_of(event, version, active, rolled_back)
            statuses[event.digest] = RubricStatus(event.digest, label, status)
    return list(statuses.values())


def status_of(last: LineageEvent, version: int | None, active: str | None, rolled_back: Collection[str]) -> str:
    """A rubric's status, from its last event; `rolled_back` holds digests that the gate may not activate again."""
    if last.digest == active:
        return "active"
    if last.digest in rolled_back:
        return "rolled_back"
    if last.kind is EventKind.REJECTED:
        return "rejected"
    return "earlier" if version else last.kind.value


class TimelineMark(NamedTuple):
    """One event on the timeline, in column `x`; `arc` is the column of the version a rollback returns to."""

    x: int
    kind: EventKind
    digest: str
    label: str
    note: str
    arc: int | None


def timeline(events: Sequence[LineageEvent]) -> tuple[TimelineMark, ...]:
    """The newest activations, rollbacks and rejections, oldest first."""
    marked = [event for event in events if event.kind in (*CHANGES, EventKind.REJECTED)][-_MAX_MARKS:]
    columns: dict[str, int] = {}
    marks = []
    for x, event in enumerate(marked):
        arc = columns.get(event.digest) if event.kind is EventKind.ROLLED_BACK else None
        if event.kind in CHANGES:
            columns[event.digest] = x
        label = f"v{event.version}" if event.version else ""
        note = f"{event.kind.value.replace('_', ' ')} {label or event.digest[:8]} by {event.by}: {event.reason}"
        marks.append(TimelineMark(x, event.kind, event.digest, label, note[:_MAX_NOTE], arc))
    return tuple(marks)


def gates_of(events: Sequence[LineageEvent], digest: str) -> list[GateReport]:
    """The gate's reports on a candidate, newest first."""
    return [e.gate for e in reversed(events) if e.gate is not None and e.digest == digest]
