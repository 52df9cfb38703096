"""Pure types, no I/O: what crosses a process boundary in Regrade."""

from regrade.contracts.anchors import MAX_LABELLED, AnchorsAnswer, ImportAnchors, LabelledPair
from regrade.contracts.base import Contract, Digest, Name, Scope, canonical_json, sha256_of
from regrade.contracts.evidence import Alarm, Audited, AuditFigures, CriterionFigures, Evidence
from regrade.contracts.evolution import (
    Authority,
    CycleReport,
    CycleStatus,
    EventKind,
    GatePass,
    GateReport,
    LineageEvent,
    Override,
    Pause,
    Reason,
    ReasonCode,
    Rollback,
    RubricDiff,
    RubricFigures,
    SamplePick,
    SampleReport,
    SampleStrategy,
    Stage,
)
from regrade.contracts.rubric import (
    LEVELS,
    MAIN_LINEAGE,
    TOP_LEVEL,
    CheckCriterion,
    Criterion,
    LlmCriterion,
    PutRubric,
    PutRubricAnswer,
    Role,
    Rubric,
)
from regrade.contracts.score import (
    Conversation,
    CriterionScore,
    ErrorBody,
    ErrorCode,
    Flag,
    ItemError,
    ItemResult,
    Message,
    Mode,
    OnOutage,
    Purpose,
    RubricRef,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
    Usage,
    as_text,
)
from regrade.contracts.trace import Trace, TracePage

__all__ = [
    "LEVELS", "MAIN_LINEAGE", "MAX_LABELLED", "TOP_LEVEL", "Alarm", "AnchorsAnswer", "AuditFigures", "Audited",
    "Authority", "CheckCriterion", "Contract", "Conversation", "Criterion", "CriterionFigures", "CriterionScore",
    "CycleReport", "CycleStatus", "Digest", "ErrorBody", "ErrorCode", "EventKind", "Evidence", "Flag", "GatePass",
    "GateReport", "ImportAnchors", "ItemError", "ItemResult", "LabelledPair", "LineageEvent", "LlmCriterion",
    "Message", "Mode", "Name", "OnOutage", "Override", "Pause", "Purpose", "PutRubric", "PutRubricAnswer", "Reason",
    "ReasonCode", "Role", "Rollback", "Rubric", "RubricDiff", "RubricFigures", "RubricRef", "SamplePick",
    "SampleReport", "SampleStrategy", "Scope", "ScoreItem", "ScoreRequest", "ScoreResponse", "Stage", "Trace",
    "TracePage", "Usage", "as_text", "canonical_json", "sha256_of",
]  # fmt: skip
