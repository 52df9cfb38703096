"""Every key in Redis. A task's keys share the hash tag `{task}`, so that a cluster keeps them on one node."""

from typing import NamedTuple

ACTIVATIONS_CHANNEL = "rg:activations"
FENCE_KEY = "rg:fence_key"
PROBE_KEY = "rg:probe"


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


def rubric_key(task: str, digest: str) -> str:
    """An immutable rubric's JSON."""
    return _key(task, "rubric", digest)


def active_key(lineage: LineageKey) -> str:
    """The active pointer: `digest version scope`."""
    return _key(lineage.task, "active", lineage.label)


def versions_key(lineage: LineageKey) -> str:
    """Hash of digest to version, one entry for each rubric that was ever active."""
    return _key(lineage.task, "versions", lineage.label)


def gate_passes_key(lineage: LineageKey) -> str:
    """Hash of digest to the digest that was active when it passed the gate."""
    return _key(lineage.task, "passed", lineage.label)


def rolled_back_key(lineage: LineageKey) -> str:
    """Hash of digest to the reason of its rollback; an override removes the digest."""
    return _key(lineage.task, "rolled_back", lineage.label)


def rollback_cooldown_key(lineage: LineageKey) -> str:
    """The digest that was rolled back automatically; expires with the cooldown, during which no other one is."""
    return _key(lineage.task, "cooling", lineage.label)


def lineages_key(task: str) -> str:
    """Set of the labels of all lineages that ever had an active rubric."""
    return _key(task, "lines")


def lineage_events_key(lineage: LineageKey) -> str:
    """Stream of lineage events."""
    return _key(lineage.task, "lineage", lineage.label)


def pin_key(lineage: LineageKey, run: str | None, step: int | None, group: str) -> str:
    """A pin, by step where it is known, else by group. A group may hold colons, so it comes last."""
    unit = f"s{step}" if step is not None else f"g{group}"
    return _key(lineage.task, "pin", lineage.name, lineage.scope or "", run or "", unit)


def traces_key(task: str) -> str:
    """Stream of the task's traces; the consumer group named like a lineage is that lineage's cursor."""
    return _key(task, "traces")


def outcome_prefix(task: str) -> str:
    """Prefix of stored item outcomes; the item's identity follows."""
    return _key(task, "outcome", "")


def judgement_key(task: str, identity: str) -> str:
    """A stored judgement: the answer of an engine call."""
    return _key(task, "judgement", identity)


def lease_key(lineage: LineageKey) -> str:
    """Lease of the lineage's cycle: the holder's fencing token."""
    return _key(lineage.task, "lease", lineage.label)


def fence_counter_key(lineage: LineageKey) -> str:
    """Counter of the cycle leases' fencing tokens."""
    return _key(lineage.task, "fence", lineage.label)


def cycle_key(lineage: LineageKey) -> str:
    """JSON of the lineage's `CycleStatus`."""
    return _key(lineage.task, "cycle", lineage.label)


def lag_key(lineage: LineageKey) -> str:
    """The number of traces that no finished cycle has consumed, as the worker last counted."""
    return _key(lineage.task, "lag", lineage.label)


def reports_key(lineage: LineageKey) -> str:
    """Stream of the lineage's `CycleReport`s."""
    return _key(lineage.task, "reports", lineage.label)


def baseline_key(lineage: LineageKey, run: str | None) -> str:
    """JSON list of a run's first traces. A label may hold a colon, a run none, so the label comes last."""
    return _key(lineage.task, "baseline", run or "", lineage.label)


def alarms_key(lineage: LineageKey) -> str:
    """JSON list of the lineage's raised `Alarm`s."""
    return _key(lineage.task, "alarms", lineage.label)


def checkpoint_key(lineage: LineageKey) -> str:
    """JSON of the results of the finished stages of the current cycle; deleted when the cycle ends."""
    return _key(lineage.task, "checkpoint", lineage.label)


def meta_judge_answers_key(cycle: str) -> str:
    """Hash of question to the meta-judge's answer in a cycle. Read on its own, so it needs no hash tag."""
    return f"rg:answers:{cycle}"


def cycles_without_activation_key(lineage: LineageKey) -> str:
    """The number of cycles in a row that activated nothing."""
    return _key(lineage.task, "fruitless", lineage.label)


def paused_key(lineage: LineageKey) -> str:
    """JSON of who paused the lineage and why; deleted when it is resumed."""
    return _key(lineage.task, "paused", lineage.label)


def archive_key(task: str) -> str:
    """JSON of how far the task's trace stream is archived and trimmed."""
    return _key(task, "archive")


def archive_lease_key(task: str) -> str:
    """Lease of the task's archive: the holder's fencing token."""
    return _key(task, "archive_lease")


def archive_fence_counter_key(task: str) -> str:
    """Counter of the archive leases' fencing tokens."""
    return _key(task, "archive_fence")


def cycle_request_key(lineage: LineageKey) -> str:
    """JSON of an operator's pending request for a cycle."""
    return _key(lineage.task, "request", lineage.label)


def anchors_key(task: str) -> str:
    """Hash of identity to JSON of the task's `LabelledPair`s."""
    return _key(task, "anchors")


def early_completions_key(lineage: LineageKey) -> str:
    """Hash of trace id to JSON of an early completion that the lineage's gate uses as an anchor."""
    return _key(lineage.task, "early", lineage.label)


def watched_activation_key(lineage: LineageKey) -> str:
    """Id of the last activation that the rollback watch decided to keep."""
    return _key(lineage.task, "settled", lineage.label)


def audited_activation_key(lineage: LineageKey) -> str:
    """Id of the last activation that the rollback watch decided on by the audit."""
    return _key(lineage.task, "audit_settled", lineage.label)


def audits_key(lineage: LineageKey) -> str:
    """Stream of audited traces, each under its id in the trace stream."""
    return _key(lineage.task, "audits", lineage.label)


def audit_cursor_key(lineage: LineageKey) -> str:
    """Id of the last trace that the auditor has read."""
    return _key(lineage.task, "audit_cursor", lineage.label)


def audit_lease_key(lineage: LineageKey) -> str:
    """Lease of the lineage's audit: the holder's fencing token."""
    return _key(lineage.task, "audit_lease", lineage.label)


def audit_fence_counter_key(lineage: LineageKey) -> str:
    """Counter of the audit leases' fencing tokens."""
    return _key(lineage.task, "audit_fence", lineage.label)
