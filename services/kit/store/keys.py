"""Every key name in Redis. All keys of a task share the hash tag `{task}`, so a cluster keeps them together."""

from typing import NamedTuple

ACTIVATIONS_CHANNEL = "rg:activations"
FENCE_KEY = "rg:fence_key"
PROBE_KEY = "rg:probe"


class Line(NamedTuple):
    """One history of rubric versions: a lineage of a task, or of one scope of it."""

    task: str
    lineage: str
    scope: str | None = None

    @property
    def label(self) -> str:
        """`lineage` or `lineage:scope`; a name holds no colon, so it reads back."""
        return self.lineage if self.scope is None else f"{self.lineage}:{self.scope}"

    @classmethod
    def of(cls, task: str, label: str) -> "Line":
        """The line of that label."""
        lineage, _, scope = label.partition(":")
        return cls(task, lineage, scope or None)

    def fallbacks(self) -> tuple["Line", ...]:
        """This line, then those of the wider scopes, up to the task's own."""
        lines = [self]
        scope = self.scope
        while scope is not None:
            scope = scope.rpartition("/")[0] or None
            lines.append(Line(self.task, self.lineage, scope))
        return tuple(lines)


def _key(task: str, *parts: str) -> str:
    return ":".join((f"rg:{{{task}}}", *parts))


def rubric_key(task: str, digest: str) -> str:
    """An immutable rubric's JSON."""
    return _key(task, "rubric", digest)


def active_key(line: Line) -> str:
    """The active pointer: `digest version scope`."""
    return _key(line.task, "active", line.label)


def versions_key(line: Line) -> str:
    """Hash of digest to version, one entry for each rubric that was ever active."""
    return _key(line.task, "versions", line.label)


def passed_key(line: Line) -> str:
    """Hash of digest to the digest it passed the gate against."""
    return _key(line.task, "passed", line.label)


def rolled_back_key(line: Line) -> str:
    """Hash of digest to the reason it was rolled back for; an override takes the digest out again."""
    return _key(line.task, "rolled_back", line.label)


def cooling_key(line: Line) -> str:
    """The digest that was rolled back automatically, for as long as no other is."""
    return _key(line.task, "cooling", line.label)


def lines_key(task: str) -> str:
    """Set of the labels of all lines that ever had an active rubric."""
    return _key(task, "lines")


def lineage_key(line: Line) -> str:
    """Stream of lineage events."""
    return _key(line.task, "lineage", line.label)


def pin_key(line: Line, run: str | None, step: int | None, group: str) -> str:
    """A pin: by step where the caller knows its step, else by group. A group may hold colons, so it comes last."""
    what = f"s{step}" if step is not None else f"g{group}"
    return _key(line.task, "pin", line.lineage, line.scope or "", run or "", what)


def traces_key(task: str) -> str:
    """Stream of the task's traces; one consumer group per line is that line's cursor."""
    return _key(task, "traces")


def outcome_prefix(task: str) -> str:
    """Prefix of stored item outcomes; the item's identity follows."""
    return _key(task, "outcome", "")


def judgement_key(task: str, identity: str) -> str:
    """What an engine call answered."""
    return _key(task, "judgement", identity)


def lease_key(line: Line) -> str:
    """Who runs a cycle: the fencing token of the holder."""
    return _key(line.task, "lease", line.label)


def fence_counter_key(line: Line) -> str:
    """Counter that fencing tokens are drawn from."""
    return _key(line.task, "fence", line.label)


def cycle_key(line: Line) -> str:
    """JSON of the line's `CycleStatus`."""
    return _key(line.task, "cycle", line.label)


def lag_key(line: Line) -> str:
    """How many traces no finished cycle has consumed, as the worker last counted."""
    return _key(line.task, "lag", line.label)


def reports_key(line: Line) -> str:
    """Stream of the line's `CycleReport`s."""
    return _key(line.task, "reports", line.label)


def baseline_key(line: Line, run: str | None) -> str:
    """JSON list of a run's first traces. A label may hold a colon and a run holds none, so the label comes last."""
    return _key(line.task, "baseline", run or "", line.label)


def alarms_key(line: Line) -> str:
    """JSON list of the line's raised `Alarm`s."""
    return _key(line.task, "alarms", line.label)


def checkpoint_key(line: Line) -> str:
    """JSON of what the stages of the cycle under way have done; gone when it has ended."""
    return _key(line.task, "checkpoint", line.label)


def answers_key(cycle: str) -> str:
    """Hash of question to what the meta-judge answered to a cycle. It stands alone, so it needs no hash tag."""
    return f"rg:answers:{cycle}"


def fruitless_key(line: Line) -> str:
    """How many cycles in a row have activated nothing."""
    return _key(line.task, "fruitless", line.label)


def paused_key(line: Line) -> str:
    """JSON of who paused the line and why; gone when it is not paused."""
    return _key(line.task, "paused", line.label)


def archive_key(task: str) -> str:
    """JSON of how far the task's trace stream has been archived and trimmed."""
    return _key(task, "archive")


def archive_lease_key(task: str) -> str:
    """Who archives the task's traces: the fencing token of the holder."""
    return _key(task, "archive_lease")


def archive_fence_counter_key(task: str) -> str:
    """Counter that the archive's fencing tokens are drawn from."""
    return _key(task, "archive_fence")


def request_key(line: Line) -> str:
    """An operator's pending request for a cycle."""
    return _key(line.task, "request", line.label)


def anchors_key(task: str) -> str:
    """Hash of identity to JSON of the task's `LabelledPair`s."""
    return _key(task, "anchors")


def early_key(line: Line) -> str:
    """Hash of trace id to JSON of an early completion that the line's gate measures on."""
    return _key(line.task, "early", line.label)


def settled_key(line: Line) -> str:
    """Id of the activation that the watch has judged and let stand."""
    return _key(line.task, "settled", line.label)


def audit_settled_key(line: Line) -> str:
    """Id of the activation that the watch has judged by the audit."""
    return _key(line.task, "audit_settled", line.label)


def audits_key(line: Line) -> str:
    """Stream of the traces that the audit judge was asked about, each under its id in the trace stream."""
    return _key(line.task, "audits", line.label)


def audit_cursor_key(line: Line) -> str:
    """Id of the last trace that was looked at for the audit."""
    return _key(line.task, "audit_cursor", line.label)


def audit_lease_key(line: Line) -> str:
    """Who audits the line's traces: the fencing token of the holder."""
    return _key(line.task, "audit_lease", line.label)


def audit_fence_counter_key(line: Line) -> str:
    """Counter that the audit's fencing tokens are drawn from."""
    return _key(line.task, "audit_fence", line.label)
