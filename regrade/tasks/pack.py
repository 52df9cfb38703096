"""Task packs: everything Regrade knows about a task, in one folder. Adding a task is adding a folder.

<task>/task.toml        role texts, prompt template, judge mode, schedule, evaluator, name of the starting rubric
<task>/rubrics/*.json   rubrics to start from
<task>/prompts.jsonl    training prompts: {id, prompt, reference?, scope?}
<task>/anchors.jsonl    trusted originals: {id, prompt, completion, reference?, scope?}
<task>/attacks.jsonl    attacks on the judge: {id, family, placement, template}; optional, default: the common ones

Packs are searched in the folders of `REGRADE_TASKS_DIR` (separated like `PATH`), then in this package.
"""

import json
import os
import reprlib
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails

from regrade.contracts import Contract, Mode, Name, Rubric, Scope
from regrade.contracts.base import Count

TASKS_DIR = "REGRADE_TASKS_DIR"
SLOT = "{prompt}"
DEFAULT_JUDGE_ROLE = "a careful examiner"

PackText = Annotated[str, Field(min_length=1, max_length=20_000)]
Kind = Literal["breadth", "depth"]
Evaluator = Literal["judge", "rouge", "verdict", "math"]

T = TypeVar("T")

_NAME = TypeAdapter(Name)
_COMMON = "_common"
_MAX_PROBLEMS = 3
"""Folder of the attacks for packs without their own."""


class UnknownTaskError(LookupError):
    """No task pack has this name."""


class BrokenTaskError(ValueError):
    """A task pack cannot be read: the file and the problem."""


class TrainingPrompt(Contract):
    """A prompt for the policy."""

    id: Name
    """Unique among the prompts."""
    prompt: PackText
    """The prompt, inserted into the pack's `policy_prompt`."""
    reference: PackText | None = None
    """What checks and evaluators compare with."""
    scope: Scope | None = None
    """Scope of a depth task."""


class Original(Contract):
    """A trusted completion; damaged copies of it become anchors."""

    id: Name
    """Unique among the originals; decides whether it is held out for the gate."""
    prompt: PackText
    """The prompt, inserted into the pack's `policy_prompt`."""
    completion: PackText
    """A good answer."""
    reference: PackText | None = None
    """What checks compare with."""
    scope: Scope | None = None
    """Scope of a depth task."""


class Attack(Contract):
    """A text that tries to influence the judge."""

    id: Name
    """Unique among the attacks."""
    family: Name
    """Kind of attack, e.g. `begging`."""
    placement: Literal["whole", "suffix", "prefix"]
    """Instead of, after or before an honest completion."""
    template: PackText
    """The text."""

    def applied_to(self, completion: str) -> str:
        """The attacked completion. Joined instead of formatted, since a template may hold braces."""
        if self.placement == "suffix":
            return f"{completion}\n\n{self.template}"
        return f"{self.template}\n\n{completion}" if self.placement == "prefix" else self.template


class TaskPack(Contract):
    """A task; all prompts are already inserted into `policy_prompt`."""

    name: Name
    """Name of the task, and of its folder."""
    kind: Kind = "breadth"
    """breadth: one rubric for all prompts. depth: guidelines for each scope."""
    judge_role: PackText
    """What the judge is: "You are <judge_role>"."""
    meta_role: PackText
    """What the meta-judge is."""
    language: str = Field(pattern=r"^[a-z]{2}$")
    """Language of the completions (ISO 639-1)."""
    scopes: tuple[Scope, ...] = ()
    """Scopes of a depth task."""
    policy_prompt: PackText = SLOT
    """Template of the policy's prompt, with one `{prompt}`."""
    mode: Mode = Mode.EXPECTED
    """How the judge reaches a level."""
    every_steps: Count = Field(default=10, ge=1)
    """Training steps between two evolution cycles."""
    evaluator: Evaluator = "judge"
    """How a trained policy is evaluated: comparison by a judge, ROUGE with a reference, label or final answer."""
    verdicts: tuple[PackText, ...] = ()
    """The labels of evaluator `verdict`."""
    starting_rubric: Rubric
    """The rubric that is active first."""
    rubrics: dict[Name, Rubric]
    """All rubrics of the pack, by file name."""
    prompts: tuple[TrainingPrompt, ...]
    """Training prompts."""
    originals: tuple[Original, ...]
    """Trusted originals."""
    attacks: tuple[Attack, ...]
    """Attacks on the judge."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.policy_prompt.count(SLOT) != 1:
            raise ValueError(f"policy_prompt must hold {SLOT} exactly once, in the place of the dataset's text")
        if (self.evaluator == "verdict") != bool(self.verdicts):
            raise ValueError("evaluator 'verdict' needs a list of verdicts, and the other evaluators take none")
        if len(set(self.scopes)) < len(self.scopes):
            raise ValueError("a scope is listed twice")
        return self

    def for_policy(self, text: str) -> str:
        """A dataset's text as the policy's prompt."""
        return for_policy(self.policy_prompt, text)


def for_policy(template: str, text: str) -> str:
    """`template` with `text` in its slot. Joined instead of formatted, since `text` may hold braces."""
    before, _, after = template.partition(SLOT)
    return f"{before}{text}{after}"


def load_pack(task: str) -> TaskPack:
    """The pack of a task. Raises `UnknownTaskError` or `BrokenTaskError`."""
    return _load(task, os.environ.get(TASKS_DIR, ""))


def available_tasks() -> list[str]:
    """Names of all packs."""
    return sorted(_folders(os.environ.get(TASKS_DIR, "")))


def judge_role(task: str) -> str:
    """What the task's judge is; `DEFAULT_JUDGE_ROLE` without a pack."""
    pack = _find(task, os.environ.get(TASKS_DIR, ""))
    return pack.judge_role if pack else DEFAULT_JUDGE_ROLE


def judge_mode(task: str) -> Mode:
    """How the task's judge reaches a level; `expected` without a pack."""
    pack = _find(task, os.environ.get(TASKS_DIR, ""))
    return pack.mode if pack else Mode.EXPECTED


@lru_cache(maxsize=256)
def _find(task: str, search_path: str) -> TaskPack | None:
    return _load(task, search_path) if task in _folders(search_path) else None


@cache
def _load(task: str, search_path: str) -> TaskPack:
    folder = _folders(search_path).get(task)
    if folder is None:
        raise UnknownTaskError(
            f"no task pack {task!r}; available: {', '.join(available_tasks())}. {TASKS_DIR} names folders of others"
        )
    return read_pack(folder)


def _folders(search_path: str) -> dict[str, Traversable]:
    """The folder of each task; the first one on the search path wins."""
    folders: dict[str, Traversable] = {}
    roots: list[Traversable] = [Path(part).expanduser() for part in search_path.split(os.pathsep) if part]
    for root in [*roots, resources.files("regrade.tasks")]:
        for folder in _subfolders(root):
            folders.setdefault(folder.name, folder)
    return folders


def _subfolders(root: Traversable) -> Iterator[Traversable]:
    if root.is_dir():
        yield from (folder for folder in root.iterdir() if folder.joinpath("task.toml").is_file())


def read_pack(folder: Traversable) -> TaskPack:
    """The pack in a folder, not cached. Raises `BrokenTaskError`."""
    settings = _read(folder, "task.toml", tomllib.loads)
    rubrics = _read_rubrics(folder)
    starting = settings.pop("starting_rubric", None)
    if starting not in rubrics:
        raise BrokenTaskError(f"{folder.name}/task.toml: starting_rubric names {starting!r}, which is not in rubrics/")
    template = settings.get("policy_prompt", SLOT)
    own_attacks = folder.joinpath("attacks.jsonl").is_file()
    pack = settings | {
        "name": folder.name,
        "starting_rubric": rubrics[starting],
        "rubrics": rubrics,
        "prompts": _read_prompts(folder, "prompts", template),
        "originals": _read_prompts(folder, "anchors", template),
        "attacks": _read_jsonl(folder if own_attacks else resources.files("regrade.tasks") / _COMMON, "attacks"),
    }
    try:
        _NAME.validate_python(folder.name)
        return TaskPack.model_validate(pack)
    except ValueError as error:
        raise BrokenTaskError(f"{folder.name}: {_problem(error)}") from error


def _read_rubrics(pack: Traversable) -> dict[str, Rubric]:
    folder = pack / "rubrics"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".json")) if folder.is_dir() else []
    return {name.removesuffix(".json"): _read(folder, name, Rubric.model_validate_json) for name in names}


def _read_prompts(folder: Traversable, name: str, template: object) -> list[object]:
    """The lines of a file, each `prompt` inserted into the template."""
    entries = _read_jsonl(folder, name)
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("prompt"), str) and isinstance(template, str):
            entry["prompt"] = for_policy(template, entry["prompt"])
    return entries


def _read_jsonl(folder: Traversable, name: str) -> list[object]:
    return _read(folder, f"{name}.jsonl", lambda text: [json.loads(line) for line in text.splitlines() if line.strip()])


def _read(folder: Traversable, name: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(folder.joinpath(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenTaskError(f"{folder.name}/{name}: {_problem(error)}") from error


def _problem(error: OSError | ValueError) -> str:
    """What is wrong, in one line; of invalid values where they are, and the values."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not isinstance(error, ValidationError):
        return str(error)
    texts = [_value_problem(each) for each in error.errors(include_url=False)]
    more = f" (and {len(texts) - _MAX_PROBLEMS} more)" if len(texts) > _MAX_PROBLEMS else ""
    return "; ".join(texts[:_MAX_PROBLEMS]) + more


def _value_problem(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])
    value = "" if error["type"] in ("missing", "value_error") else f", not {reprlib.repr(error['input'])}"
    text = " ".join(f"{error['msg'].removeprefix('Value error, ')}{value}".split())
    return ": ".join(filter(None, (where, text)))
