"""Task packs: one folder for each task."""

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
