"""Task packs, one folder each."""

from regrade.tasks.pack import (
    Attack,
    Original,
    TaskPack,
    TrainingPrompt,
    UnknownTaskError,
    available_tasks,
    judge_role,
    load_pack,
)

__all__ = [
    "Attack",
    "Original",
    "TaskPack",
    "TrainingPrompt",
    "UnknownTaskError",
    "available_tasks",
    "judge_role",
    "load_pack",
]
