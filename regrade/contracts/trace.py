"""The trace: the record of one scored item, what the meta-reward service learns from."""

from regrade.contracts.score import Conversation, CriterionScore, Outcome, Purpose, Usage


class Trace(Outcome):
    """One item that received a reward, written once (I5). `time` is Unix seconds, `latency_ms` the batch's."""

    trace_id: str
    task: str
    lineage: str
    scope: str | None
    run: str | None
    step: int | None
    group: str
    item_id: str
    purpose: Purpose
    prompt: str | Conversation
    completion: str | Conversation
    reference: str | None
    digest: str
    version: int | None
    reward: float
    raw: float
    criteria: tuple[CriterionScore, ...]
    flags: tuple[str, ...]
    judge_model: str
    usage: Usage
    latency_ms: float
    time: float


class TracePage(Outcome):
    """Traces that were asked for, newest first. `older` is where to read on (`before`), None at the log's end.

    One answer reads a bounded stretch of the log, so a page may be short, or empty, and still have an `older`.
    """

    traces: tuple[Trace, ...]
    older: str | None
