"""A task pack to start from: every file there is, with lines that show their form and are meant to be replaced."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from regrade.contracts import Name
from regrade.tasks.pack import SLOT, Evaluator, Kind

_REFERENCE: dict[str, str] = {"rouge": "A reference text of your own.", "verdict": "yes", "math": "4"}
_TOML = """\
# How the judge and the meta-judge are addressed: "You are ...".
judge_role = "an expert for {task}"
meta_role = "a teacher of experts for {task}"
language = "en"
# breadth: one rubric for all prompts. depth: each scope has guidelines of its own; then list them in scopes.
kind = "{kind}"
scopes = {scopes}
# What the policy is given; the text of a dataset goes into the slot.
policy_prompt = "{slot}"
# expected (cheapest), reasoned (a rationale first) or planned (a plan for each prompt first).
mode = "{mode}"
# Training steps between two rubric cycles.
every_steps = 10
# What a trained policy is measured by: judge, rouge, verdict or math.
evaluator = "{evaluator}"
verdicts = {verdicts}
starting_rubric = "one_line"
"""


def new_pack(folder: Path, task: str, *, kind: Kind, evaluator: Evaluator) -> Path:
    """Write a pack into `folder/task`. Raises `FileExistsError`, or `ValueError` for a name that is none."""
    TypeAdapter(Name).validate_python(task)
    place = folder / task
    (place / "rubrics").mkdir(parents=True)
    (place / "task.toml").write_text(_about(task, kind, evaluator), encoding="utf-8")
    rubric = json.dumps(_rubric(task, evaluator), indent=2)
    (place / "rubrics" / "one_line.json").write_text(f"{rubric}\n", encoding="utf-8")
    more = {"reference": _REFERENCE[evaluator]} if evaluator in _REFERENCE else {}
    more |= {"scope": "general"} if kind == "depth" else {}
    _write(place / "prompts.jsonl", [{"id": f"p{n}", "prompt": f"Prompt {n} to train on."} | more for n in range(1, 5)])
    _write(place / "anchors.jsonl", [_original(n) | more for n in range(1, 25)])
    return place


def _about(task: str, kind: Kind, evaluator: Evaluator) -> str:
    slots = {
        "task": task,
        "kind": kind,
        "scopes": '["general"]' if kind == "depth" else "[]",
        "slot": SLOT,
        "mode": "planned" if evaluator == "math" else "expected",
        "evaluator": evaluator,
        "verdicts": '["yes", "no"]' if evaluator == "verdict" else "[]",
    }
    return "".join(slots.get(part, part) for part in _TOML.replace("}", "{").split("{"))


def _rubric(task: str, evaluator: Evaluator) -> dict[str, Any]:
    levels = ["Nothing of use, or another task.", "Very poor.", "Poor.", "Acceptable.", "Good.", "Excellent."]
    about = {"name": "Overall quality", "description": f"How good is the response as an answer to its {task} prompt?"}
    criteria: list[dict[str, Any]] = [{"kind": "llm", "id": "quality"} | about | {"levels": levels}]
    answer = {"kind": "check", "id": "answer", "name": "The answer is right"}
    if evaluator == "verdict":
        criteria.append(answer | {"check": {"check": "verdict_equal", "verdicts": ["yes", "no"]}})
    if evaluator == "math":
        criteria.append(answer | {"check": {"check": "math_equal"}})
    return {"criteria": criteria, "rationale": "A first attempt, to be replaced."}


def _original(number: int) -> dict[str, str]:
    text = f"Replace this by an answer to prompt {number} that you would vouch for. It has several sentences. Each of "
    return {
        "id": f"a{number}",
        "prompt": f"Prompt {number} of the trusted originals.",
        "completion": f"{text}them says something of its own, so that damage can be told from order.",
    }


def _write(path: Path, lines: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
