"""Creates a task pack to start from: all files, with example lines to replace."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from regrade.contracts import Name
from regrade.tasks.pack import SLOT, Evaluator, Kind

_REFERENCES: dict[str, str] = {"rouge": "A reference text of your own.", "verdict": "yes", "math": "4"}
_REPLACE = "Replace this by an answer to prompt"
_TOML = """\
# What the judge and the meta-judge are: "You are ...".
judge_role = "an expert for {task}"
meta_role = "a teacher of experts for {task}"
language = "en"
# breadth: one rubric for all prompts. depth: guidelines for each scope of `scopes`.
kind = "{kind}"
scopes = {scopes}
# Template of the policy's prompt; the text of a dataset goes into the braces.
policy_prompt = "{slot}"
# How the judge reaches a level: expected (cheapest), reasoned (rationale first) or planned (plan first).
mode = "{mode}"
# Training steps between two evolution cycles.
every_steps = 10
# How a trained policy is evaluated: judge, rouge, verdict or math.
evaluator = "{evaluator}"
verdicts = {verdicts}
starting_rubric = "one_line"
"""


def new_pack(folder: Path, task: str, *, kind: Kind, evaluator: Evaluator) -> Path:
    """Write a pack into `folder/task` and return that folder. Raises `FileExistsError`, `ValueError` for a bad name."""
    try:
        TypeAdapter(Name).validate_python(task)
    except ValidationError:
        raise ValueError(f"{task!r} is no name: 1 to 64 letters, digits, _ . and -, and not . or ..") from None
    pack = folder / task
    if pack.exists():
        raise FileExistsError(f"{pack} exists: choose another name or folder, or edit its files")
    (pack / "rubrics").mkdir(parents=True)
    (pack / "task.toml").write_text(_settings(task, kind, evaluator), encoding="utf-8")
    rubric = json.dumps(_rubric(task, evaluator), indent=2)
    (pack / "rubrics" / "one_line.json").write_text(f"{rubric}\n", encoding="utf-8")
    fields = {"reference": _REFERENCES[evaluator]} if evaluator in _REFERENCES else {}
    fields |= {"scope": "general"} if kind == "depth" else {}
    prompts = [{"id": f"p{n}", "prompt": f"Training prompt {n}."} | fields for n in range(1, 5)]
    _write_jsonl(pack / "prompts.jsonl", prompts)
    _write_jsonl(pack / "anchors.jsonl", [_original(n) | fields for n in range(1, 25)])
    return pack


def _settings(task: str, kind: Kind, evaluator: Evaluator) -> str:
    values = {
        "task": task,
        "kind": kind,
        "scopes": '["general"]' if kind == "depth" else "[]",
        "slot": SLOT,
        "mode": "planned" if evaluator == "math" else "expected",
        "evaluator": evaluator,
        "verdicts": '["yes", "no"]' if evaluator == "verdict" else "[]",
    }
    return "".join(values.get(part, part) for part in _TOML.replace("}", "{").split("{"))


def _rubric(task: str, evaluator: Evaluator) -> dict[str, Any]:
    levels = ["Nothing of use, or another task.", "Very poor.", "Poor.", "Acceptable.", "Good.", "Excellent."]
    question = f"How good is the response as an answer to its {task} prompt?"
    quality = {"kind": "llm", "id": "quality", "name": "Overall quality", "description": question, "levels": levels}
    criteria: list[dict[str, Any]] = [quality]
    answer = {"kind": "check", "id": "answer", "name": "The answer is right"}
    if evaluator == "verdict":
        criteria.append(answer | {"check": {"check": "verdict_equal", "verdicts": ["yes", "no"]}})
    if evaluator == "math":
        criteria.append(answer | {"check": {"check": "math_equal"}})
    return {"criteria": criteria, "rationale": "A first attempt, to be replaced."}


def is_example_text(completion: str) -> bool:
    """Whether an original is still an example line of a new pack."""
    return completion.startswith(_REPLACE)


def _original(number: int) -> dict[str, str]:
    completion = (
        f"{_REPLACE} {number} that you trust. It needs several sentences. Each of them says "
        "something of its own, so that a damaged copy is clearly worse."
    )
    return {"id": f"a{number}", "prompt": f"Prompt {number} of the trusted originals.", "completion": completion}


def _write_jsonl(path: Path, entries: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
