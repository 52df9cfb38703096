"""Every key name in Redis. All keys of a task share the hash tag `{task}`, so a cluster keeps them together."""

from typing import NamedTuple

ACTIVATIONS_CHANNEL = "rg:activations"
FENCE_KEY = "rg:fence_key"
PROBE_KEY = "rg:probe"


class LineageKey(NamedTuple):
    """Identifies one history of rubric versions: a named lineage of a task, or of one scope of the task."""

    task: str
    name: str
    scope: str | None = None

    @property
    def label(self) -> str:
        """`name` or `name:scope`; a name holds no colon, so `of` can read it back."""
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
    """Hash of digest to the digest it passed the gate against."""
    return _key(lineage.task, "passed", lineage.label)


def rolled_back_key(lineage: LineageKey) -> str:
    """Hash of digest to the reason it was rolled back for; an override takes the digest out again."""
    return _key(lineage.task, "rolled_back", lineage.label)


def rollback_cooldown_key(lineage: LineageKey) -> str:
    """The digest that was rolled back automatically, for as long as no other is."""
    return _key(lineage.task, "cooling", lineage.label)


def lineages_key(task: str) -> str:
    """Set of the labels of all lines that ever had an active rubric."""
    return _key(task, "lines")


def lineage_events_key(lineage: LineageKey) -> str:
    """Stream of lineage events."""
    return _key(lineage.task, "lineage", lineage.label)


def pin_key(lineage: LineageKey, run: str | None, step: int | None, group: str) -> str:
    """A pin: by step where the caller knows its step, else by group. A group may hold colons, so it comes last."""
    what = f"s{step}" if step is not None else f"g{group}"
    return _key(lineage.task, "pin", lineage.name, lineage.scope or "", run or "", what)


def traces_key(task: str) -> str:
    """Stream of the task's traces; one consumer group per line is that line's cursor."""
    return _key(task, "traces")


def outcome_prefix(task: str) -> str:
    """Prefix of stored item outcomes; the item's identity follows."""
    return _key(task, "outcome", "")


def judgement_key(task: str, identity: str) -> str:
    """What an engine call answered."""
    return _key(task, "judgement", identity)


def lease_key(lineage: LineageKey) -> str:
    """Who runs a cycle: the fencing token of the holder."""
    return _key(lineage.task, "lease", lineage.label)


def fence_counter_key(lineage: LineageKey) -> str:
    """Counter that fencing tokens are drawn from."""
    return _key(lineage.task, "fence", lineage.label)


def cycle_key(lineage: LineageKey) -> str:
    """JSON of the line's `CycleStatus`."""
    return _key(lineage.task, "cycle", lineage.label)


def lag_key(lineage: LineageKey) -> str:
    """How many traces no finished cycle has consumed, as the worker last counted."""
    return _key(lineage.task, "lag", lineage.label)


def reports_key(lineage: LineageKey) -> str:
    """Stream of the line's `CycleReport`s."""
    return _key(lineage.task, "reports", lineage.label)


def baseline_key(lineage: LineageKey, run: str | None) -> str:
    """JSON list of a run's first traces. A label may hold a colon and a run holds none, so the label comes last."""
    return _key(lineage.task, "baseline", run or "", lineage.label)


def alarms_key(lineage: LineageKey) -> str:
    """JSON list of the line's raised `Alarm`s."""
    return _key(lineage.task, "alarms", lineage.label)


def checkpoint_key(lineage: LineageKey) -> str:
    """JSON of what the stages of the cycle under way have done; gone when it has ended."""
    return _key(lineage.task, "checkpoint", lineage.label)


def meta_judge_answers_key(cycle: str) -> str:
    """Hash of question to what the meta-judge answered to a cycle. It stands alone, so it needs no hash tag."""
    return f"rg:answers:{cycle}"


def cycles_without_activation_key(lineage: LineageKey) -> str:
    """How many cycles in a row have activated nothing."""
    return _key(lineage.task, "fruitless", lineage.label)


def paused_key(lineage: LineageKey) -> str:
    """JSON of who paused the line and why; gone when it is not paused."""
    return _key(lineage.task, "paused", lineage.label)


def archive_key(task: str) -> str:
    """JSON of how far the task's trace stream has been archived and trimmed."""
    return _key(task, "archive")


def archive_lease_key(task: str) -> str:
    """Who archives the task's traces: the fencing token of the holder."""
    return _key(task, "archive_lease")


def archive_fence_counter_key(task: str) -> str:
    """Counter that the archive's fencing tokens are drawn from."""
    return _key(task, "archive_fence")


def cycle_request_key(lineage: LineageKey) -> str:
    """An operator's pending request for a cycle."""
    return _key(lineage.task, "request", lineage.label)


def anchors_key(task: str) -> str:
    """Hash of identity to JSON of the task's `LabelledPair`s."""
    return _key(task, "anchors")


def early_completions_key(lineage: LineageKey) -> str:
    """Hash of trace id to JSON of an early completion that the line's gate measures on."""
    return _key(lineage.task, "early", lineage.label)


def watched_activation_key(lineage: LineageKey) -> str:
    """Id of the activation that the watch has judged and let stand."""
    return _key(lineage.task, "settled", lineage.label)


def audited_activation_key(lineage: LineageKey) -> str:
    """Id of the activation that the watch has judged by the audit."""
    return _key(lineage.task, "audit_settled", lineage.label)


def audits_key(lineage: LineageKey) -> str:
    """Stream of the traces that the audit judge was asked about, each under its id in the trace stream."""
    return _key(lineage.task, "audits", lineage.label)


def audit_cursor_key(lineage: LineageKey) -> str:
    """Id of the last trace that was looked at for the audit."""
    return _key(lineage.task, "audit_cursor", lineage.label)


def audit_lease_key(lineage: LineageKey) -> str:
    """Who audits the line's traces: the fencing token of the holder."""
    return _key(lineage.task, "audit_lease", lineage.label)


def audit_fence_counter_key(lineage: LineageKey) -> str:
    """Counter that the audit's fencing tokens are drawn from."""
    return _key(lineage.task, "audit_fence", lineage.label)
