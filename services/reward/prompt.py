"""The judge's conversations, most shared part first: rubric, task, completion, question. Pure.

Engines compute an equal beginning once: the system turn is the same for every item of a rubric, the
task for a group, the completion for all its criteria.
"""

from collections.abc import Sequence
from typing import NamedTuple

from regrade.contracts import LlmCriterion, Rubric
from services.kit.fence import fence, neutralise
from services.kit.template import fill, load_template
from services.reward.engine.base import ChatMessages


class Material(NamedTuple):
    """What the judge is shown of one item: the system turn, and the task, reference and response in their fences."""

    system: str
    task: str
    reference: str
    response: str


def render_rubric(rubric: Rubric) -> str:
    """The part of a rubric the judge sees: preamble and LLM criteria. Checks are none of its business."""
    blocks = [rubric.preamble] if rubric.preamble else []
    for criterion in rubric.llm_criteria:
        levels = "\n".join(f"{level}: {text}" for level, text in enumerate(criterion.levels))
        blocks.append(f"Criterion: {criterion.name}\n{criterion.description}\n{levels}")
    return "\n\n".join(blocks)


def system_turn(role: str, rubric: Rubric) -> str:
    """Who the judge is, what is material, and the rubric."""
    return _filled("system", role=role, rubric=render_rubric(rubric))


def material(*, system: str, prompt: str, reference: str | None, completion: str, fence_key: bytes) -> Material:
    """An item as it is shown to the judge."""
    return Material(
        system,
        fence("TASK", prompt, fence_key),
        fence("REFERENCE", reference, fence_key) if reference is not None else "",
        fence("RESPONSE", completion, fence_key),
    )


def ask_levels(shown: Material, criteria: Sequence[LlmCriterion]) -> ChatMessages:
    """Asks for the level of each criterion, one digit a line."""
    return _opening(shown, f"{_joined(shown.task, shown.response)}\n\n{_level_question(criteria)}")


def ask_rationale(shown: Material, criterion: LlmCriterion, words: int) -> ChatMessages:
    """Asks what speaks for and against one criterion."""
    seen = _joined(shown.task, shown.response)
    return _opening(shown, _filled("rationale", material=seen, criterion=criterion.name, words=str(words)))


def ask_plan(shown: Material, words: int) -> ChatMessages:
    """Asks for a plan that holds for every response to the task: the same for a whole group."""
    return _opening(shown, _filled("plan", material=_joined(shown.task, shown.reference), words=str(words)))


def ask_execution(shown: Material, plan: str, words: int, fence_key: bytes) -> ChatMessages:
    """Asks for the plan to be carried out on the response."""
    seen = _joined(shown.task, shown.reference, fence("PLAN", plan, fence_key), shown.response)
    return _opening(shown, _filled("execute", material=seen, words=str(words)))


def then_levels(asked: ChatMessages, written: str, criteria: Sequence[LlmCriterion]) -> ChatMessages:
    """Goes on from what the judge wrote to the level of each criterion. What it wrote may quote the response."""
    said = {"role": "assistant", "content": neutralise(written).text}
    return (*asked, said, {"role": "user", "content": _level_question(criteria)})


def _level_question(criteria: Sequence[LlmCriterion]) -> str:
    if len(criteria) == 1:
        return _filled("level", criterion=criteria[0].name)
    listed = "\n".join(f"{n}. {criterion.name}" for n, criterion in enumerate(criteria, 1))
    return _filled("levels", criteria=listed, count=str(len(criteria)))


def _opening(shown: Material, question: str) -> ChatMessages:
    return ({"role": "system", "content": shown.system}, {"role": "user", "content": question})


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _filled(name: str, **values: str) -> str:
    return fill(load_template("services.reward", name), **values)
