"""Task packs, one folder each."""

from regrade.tasks.pack import (
    Attack,
    BrokenTaskError,
    Original,
    TaskPack,
    TrainingPrompt,
    UnknownTaskError,
    available_tasks,
    judge_mode,
    judge_role,
    load_pack,
)

__all__ = [
    "Attack",
    "BrokenTaskError",
    "Original",
    "TaskPack",
    "TrainingPrompt",
    "UnknownTaskError",
    "available_tasks",
    "judge_mode",
    "judge_role",
    "load_pack",
]
