"""Task packs: what Regrade knows of a task. A folder each; adding a task is adding a folder.

<task>/task.toml        role words, prompt template, judge mode, schedule, evaluator, name of the starting rubric
<task>/rubrics/*.json   rubrics to start from
<task>/prompts.jsonl    prompts to train on: {id, prompt, reference?, scope?}
<task>/anchors.jsonl    trusted originals: {id, prompt, completion, reference?, scope?}
<task>/attacks.jsonl    attack texts: {id, family, placement, template}; left out, the common ones serve

Folders are looked for where `REGRADE_TASKS_DIR` says (several: the system's path separator between), then among
those that ship with this package.
"""

import json
import os
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, TypeAdapter, model_validator

from regrade.contracts import Contract, Mode, Name, Rubric, Scope
from regrade.contracts.base import Count

TASKS_DIR = "REGRADE_TASKS_DIR"
SLOT = "{prompt}"

Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Kind = Literal["breadth", "depth"]
"""Breadth: one rubric holds for all instances. Depth: each scope of alike instances has guidelines of its own."""
Evaluator = Literal["judge", "rouge", "verdict", "math"]
"""What a trained policy is measured by: pairwise judgement, overlap with a reference, a verdict, a final answer."""

T = TypeVar("T")

_NAME = TypeAdapter(Name)
_COMMON = "_common"


class UnknownTaskError(LookupError):
    """There is no task pack of that name."""


class BrokenTaskError(ValueError):
    """A task pack that cannot be read: the file, and what is wrong with it."""


class TrainingPrompt(Contract):
    """A prompt for the policy, with the reference that checks and evaluators compare with."""

    id: Name
    prompt: Text
    reference: Text | None = None
    scope: Scope | None = None


class Original(Contract):
    """A completion known to be good; damaged twins of it make anchors."""

    id: Name
    prompt: Text
    completion: Text
    reference: Text | None = None
    scope: Scope | None = None


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
    """Everything that is known of one task. Prompts, also the originals', stand as the policy is given them."""

    name: Name
    kind: Kind = "breadth"
    judge_role: Text
    meta_role: Text
    language: str = Field(pattern=r"^[a-z]{2}$")
    scopes: tuple[Scope, ...] = ()
    policy_prompt: Text = SLOT
    mode: Mode = Mode.EXPECTED
    every_steps: Count = Field(default=10, ge=1)
    evaluator: Evaluator = "judge"
    verdicts: tuple[Text, ...] = ()
    starting_rubric: Rubric
    rubrics: dict[Name, Rubric]
    prompts: tuple[TrainingPrompt, ...]
    originals: tuple[Original, ...]
    attacks: tuple[Attack, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.policy_prompt.count(SLOT) != 1:
            raise ValueError(f"policy_prompt names {SLOT} once: that is where the dataset's text goes")
        if (self.evaluator == "verdict") != bool(self.verdicts):
            raise ValueError("evaluator 'verdict' takes a list of verdicts, the others take none")
        if len(set(self.scopes)) < len(self.scopes):
            raise ValueError("a scope is listed twice")
        return self

    def for_policy(self, text: str) -> str:
        """A dataset's text as the policy is given it. Joined, never formatted: the text may hold braces."""
        return for_policy(self.policy_prompt, text)


def for_policy(template: str, text: str) -> str:
    """`template` with `text` in its slot."""
    before, _, after = template.partition(SLOT)
    return f"{before}{text}{after}"


DEFAULT_JUDGE_ROLE = "a careful examiner"


def load_pack(task: str) -> TaskPack:
    """The pack of a task. Raises `UnknownTaskError` or `BrokenTaskError`."""
    return _load(task, os.environ.get(TASKS_DIR, ""))


def available_tasks() -> list[str]:
    """The names of the packs at hand."""
    return sorted(_folders(os.environ.get(TASKS_DIR, "")))


class Judging(NamedTuple):
    """How a task is judged unless a service or a request says otherwise."""

    role: str
    mode: Mode


def judge_role(task: str) -> str:
    """The role words for a task's judge; plain ones for a task without a pack."""
    return _judging(task, os.environ.get(TASKS_DIR, "")).role


def judge_mode(task: str) -> Mode:
    """How the task's judge reaches a level; by expected level for a task without a pack."""
    return _judging(task, os.environ.get(TASKS_DIR, "")).mode


@lru_cache(maxsize=256)
def _judging(task: str, folders: str) -> Judging:
    if task not in _folders(folders):
        return Judging(DEFAULT_JUDGE_ROLE, Mode.EXPECTED)
    pack = load_pack(task)
    return Judging(pack.judge_role, pack.mode)


def _folders(named: str) -> dict[str, Traversable]:
    """Every pack's folder by the task's name; of two of one name the first folder named has it."""
    found: dict[str, Traversable] = {}
    roots: list[Traversable] = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    for root in [*roots, resources.files("regrade.tasks")]:
        for folder in _subfolders(root):
            found.setdefault(folder.name, folder)
    return found


def _subfolders(root: Traversable) -> Iterator[Traversable]:
    if root.is_dir():
        yield from (folder for folder in root.iterdir() if folder.joinpath("task.toml").is_file())


@cache
def _load(task: str, folders: str) -> TaskPack:
    folder = _folders(folders).get(task)
    if folder is None:
        raise UnknownTaskError(f"no task pack {task!r}; there are: {', '.join(available_tasks())}")
    return read_pack(folder)


def read_pack(folder: Traversable) -> TaskPack:
    """The pack in a folder, read anew. Raises `BrokenTaskError`."""
    about = _read(folder, "task.toml", tomllib.loads)
    rubrics = _rubrics(folder)
    starting = about.pop("starting_rubric", None)
    if starting not in rubrics:
        raise BrokenTaskError(f"{folder.name}/task.toml: starting_rubric names {starting!r}, no file of rubrics/")
    template = about.get("policy_prompt", SLOT)
    pack = about | {
        "name": folder.name,
        "starting_rubric": rubrics[starting],
        "rubrics": rubrics,
        "prompts": _asked(folder, "prompts", template),
        "originals": _asked(folder, "anchors", template),
        "attacks": _attacks(folder),
    }
    try:
        _NAME.validate_python(folder.name)
        return TaskPack.model_validate(pack)
    except ValueError as error:
        raise BrokenTaskError(f"{folder.name}: {error}") from error


def _rubrics(folder: Traversable) -> dict[str, Rubric]:
    place = folder.joinpath("rubrics")
    names = sorted(file.name for file in place.iterdir() if file.name.endswith(".json")) if place.is_dir() else []
    return {name.removesuffix(".json"): _read(place, name, Rubric.model_validate_json) for name in names}


def _asked(folder: Traversable, name: str, template: object) -> list[object]:
    """Lines with a prompt, each put into the policy's template."""
    lines = _lines(folder, name)
    for line in lines:
        if isinstance(line, dict) and isinstance(line.get("prompt"), str) and isinstance(template, str):
            line["prompt"] = for_policy(template, line["prompt"])
    return lines


def _attacks(folder: Traversable) -> list[object]:
    if folder.joinpath("attacks.jsonl").is_file():
        return _lines(folder, "attacks")
    return _lines(resources.files("regrade.tasks").joinpath(_COMMON), "attacks")


def _lines(folder: Traversable, name: str) -> list[object]:
    return _read(folder, f"{name}.jsonl", lambda text: [json.loads(line) for line in text.splitlines() if line.strip()])


def _read(folder: Traversable, name: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(folder.joinpath(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenTaskError(f"{folder.name}/{name}: {error}") from error
