"""Every key in Redis. A task's keys share the hash tag `{task}`."""

from collections.abc import Callable
from typing import NamedTuple

ACTIVATIONS_CHANNEL = "rg:activations"
FENCE_KEY = "rg:fence_key"
PROBE_KEY = "rg:probe"


def ended_session_key(session_id: str) -> str:
    """Exists while a session of the console, ended by signing out, would still be valid."""
    return f"rg:console_ended:{session_id}"


class LineageKey(NamedTuple):
    """Identifies one history of rubric versions: a named lineage of a task, or of one scope of a task."""

    task: str
    name: str
    scope: str | None = None

    @property
    def label(self) -> str:
        """`name` or `name:scope`; a name holds no colon, so `of` can parse it."""
        return self.name if self.scope is None else f"{self.name}:{self.scope}"

    @classmethod
    def of(cls, task: str, label: str) -> "LineageKey":
        """The lineage with that label."""
        name, _, scope = label.partition(":")
        return cls(task, name, scope or None)

    def fallbacks(self) -> tuple["LineageKey", ...]:
        """This lineage, then those of the wider scopes, up to the task's own."""
        lineages = [self]
        scope = self.scope
        while scope is not None:
            scope = scope.rpartition("/")[0] or None
            lineages.append(LineageKey(self.task, self.name, scope))
        return tuple(lineages)


def _key(task: str, *parts: str) -> str:
    return ":".join((f"rg:{{{task}}}", *parts))


def _of_lineage(kind: str) -> Callable[[LineageKey], str]:
    return lambda lineage: _key(lineage.task, kind, lineage.label)


def _of_task(kind: str) -> Callable[[str], str]:
    return lambda task: _key(task, kind)


def rubric_key(task: str, digest: str) -> str:
    """An immutable rubric's JSON."""
    return _key(task, "rubric", digest)


active_key = _of_lineage("active")
"""The active pointer: `digest version scope`."""

versions_key = _of_lineage("versions")
"""Hash of digest to version, one entry for each rubric that was ever active."""

gate_passes_key = _of_lineage("passed")
"""Hash of digest to the digest that was active when it passed the gate."""

rolled_back_key = _of_lineage("rolled_back")
"""Hash of digest to the reason of its rollback; an override removes the digest."""

rollback_cooldown_key = _of_lineage("cooling")
"""The digest that was rolled back automatically; expires with the cooldown, during which no other one is."""

lineages_key = _of_task("lines")
"""Set of the labels of all lineages that ever had an active rubric."""

lineage_events_key = _of_lineage("lineage")
"""Stream of lineage events."""


def pin_key(lineage: LineageKey, run: str | None, step: int | None, group: str) -> str:
    """A pin, by step where it is known, else by group. A group may hold colons, so it comes last."""
    unit = f"s{step}" if step is not None else f"g{group}"
    return _key(lineage.task, "pin", lineage.name, lineage.scope or "", run or "", unit)


traces_key = _of_task("traces")
"""Stream of the task's traces; the consumer group named like a lineage is that lineage's cursor."""


def outcome_prefix(task: str) -> str:
    """Prefix of stored item outcomes; the item's identity follows."""
    return _key(task, "outcome", "")


def judgement_key(task: str, identity: str) -> str:
    """A stored judgement: the answer of an engine call."""
    return _key(task, "judgement", identity)


lease_key = _of_lineage("lease")
"""Lease of the lineage's cycle: the holder's fencing token."""

lease_counter_key = _of_lineage("fence")
"""Counter of the cycle leases' fencing tokens."""

cycle_key = _of_lineage("cycle")
"""JSON of the lineage's `CycleStatus`."""

lag_key = _of_lineage("lag")
"""The number of traces that no finished cycle has consumed, as the worker last counted."""

reports_key = _of_lineage("reports")
"""Stream of the lineage's `CycleReport`s."""


def baseline_key(lineage: LineageKey, run: str | None) -> str:
    """JSON list of a run's first traces. A label may hold a colon, a run none, so the label comes last."""
    return _key(lineage.task, "baseline", run or "", lineage.label)


alarms_key = _of_lineage("alarms")
"""JSON list of the lineage's raised `Alarm`s."""

checkpoint_key = _of_lineage("checkpoint")
"""JSON of the results of the finished stages of the current cycle; deleted when the cycle ends."""


def meta_judge_answers_key(cycle: str) -> str:
    """Hash of question to the meta-judge's answer in a cycle. Read on its own, so it needs no hash tag."""
    return f"rg:answers:{cycle}"


cycles_without_activation_key = _of_lineage("fruitless")
"""The number of cycles in a row that activated nothing."""

paused_key = _of_lineage("paused")
"""JSON of who paused the lineage and why; deleted when it is resumed."""

archive_key = _of_task("archive")
"""JSON of how far the task's trace stream is archived and trimmed."""

archive_lease_key = _of_task("archive_lease")
"""Lease of the task's archive: the holder's fencing token."""

archive_lease_counter_key = _of_task("archive_fence")
"""Counter of the archive leases' fencing tokens."""

cycle_request_key = _of_lineage("request")
"""JSON of an operator's pending request for a cycle."""

anchors_key = _of_task("anchors")
"""Hash of identity to JSON of the task's `LabelledPair`s."""

early_completions_key = _of_lineage("early")
"""Hash of trace id to JSON of an early completion that the lineage's gate uses as an anchor."""

watched_activation_key = _of_lineage("settled")
"""Id of the last activation that the rollback watch decided to keep."""

audited_activation_key = _of_lineage("audit_settled")
"""Id of the last activation that the rollback watch decided on by the audit."""

audits_key = _of_lineage("audits")
"""Stream of audited traces, each under its id in the trace stream."""

audit_cursor_key = _of_lineage("audit_cursor")
"""Id of the last trace that the auditor has read."""

audit_lease_key = _of_lineage("audit_lease")
"""Lease of the lineage's audit: the holder's fencing token."""

audit_lease_counter_key = _of_lineage("audit_fence")
"""Counter of the audit leases' fencing tokens."""
