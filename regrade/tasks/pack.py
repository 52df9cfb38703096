"""Task packs: what Regrade knows of a task. A folder each; adding a task is adding a folder.

<task>/task.toml        role words, name of the starting rubric
<task>/rubrics/*.json   starting rubrics
<task>/prompts.jsonl    prompts to train on: {id, prompt}
<task>/anchors.jsonl    trusted originals: {id, prompt, completion}
<task>/attacks.jsonl    attack texts: {id, family, placement, template}
"""

import json
import tomllib
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Literal

from pydantic import Field

from regrade.contracts import Contract, Name, Rubric, Scope

Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Kind = Literal["breadth", "depth"]
"""Breadth: one rubric holds for all instances. Depth: each scope of alike instances has guidelines of its own."""


class UnknownTaskError(LookupError):
    """No task pack of that name ships with this installation."""


class TrainingPrompt(Contract):
    """A prompt for the policy."""

    id: Name
    prompt: Text


class Original(Contract):
    """A completion known to be good; damaged twins of it make anchors."""

    id: Name
    prompt: Text
    completion: Text


class Attack(Contract):
    """A text aimed at the judge, put before, after, or in place of an honest completion."""

    id: Name
    family: Name
    placement: Literal["whole", "suffix", "prefix"]
    template: Text

    def applied_to(self, completion: str) -> str:
        """The attacked completion. Joined, never formatted: a template holds braces of its own."""
        if self.placement == "suffix":
            return f"{completion}\n\n{self.template}"
        return f"{self.template}\n\n{completion}" if self.placement == "prefix" else self.template


class TaskPack(Contract):
    """Everything that ships for one task."""

    name: Name
    judge_role: Text
    meta_role: Text
    language: str = Field(pattern=r"^[a-z]{2}$")
    kind: Kind = "breadth"
    scopes: tuple[Scope, ...] = ()
    starting_rubric: Rubric
    prompts: tuple[TrainingPrompt, ...]
    originals: tuple[Original, ...]
    attacks: tuple[Attack, ...]


DEFAULT_JUDGE_ROLE = "a careful examiner"


@cache
def load_pack(task: str) -> TaskPack:
    """The pack of a task. Raises `UnknownTaskError`, or `pydantic.ValidationError` on a broken file."""
    folder = resources.files("regrade.tasks").joinpath(task)
    if not folder.joinpath("task.toml").is_file():
        raise UnknownTaskError(f"no task pack {task!r}; there are: {', '.join(available_tasks())}")
    about = tomllib.loads(folder.joinpath("task.toml").read_text(encoding="utf-8"))
    rubric = folder.joinpath("rubrics", f"{about.pop('starting_rubric')}.json").read_text(encoding="utf-8")
    return TaskPack.model_validate(
        about
        | {
            "name": task,
            "starting_rubric": Rubric.model_validate_json(rubric),
            "prompts": _lines(folder, "prompts"),
            "originals": _lines(folder, "anchors"),
            "attacks": _lines(folder, "attacks"),
        }
    )


def available_tasks() -> list[str]:
    """The names of the packs that ship with this installation."""
    folders = resources.files("regrade.tasks").iterdir()
    return sorted(folder.name for folder in folders if folder.joinpath("task.toml").is_file())


@lru_cache(maxsize=256)
def judge_role(task: str) -> str:
    """The role words for a task's judge; plain ones for a task without a pack."""
    return load_pack(task).judge_role if task in available_tasks() else DEFAULT_JUDGE_ROLE


def _lines(folder: Traversable, name: str) -> list[object]:
    text = folder.joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]
