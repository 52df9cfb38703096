"""The judge's prompt, most shared part first: rubric, task, completion, question. Pure."""

from regrade.contracts import LlmCriterion, Rubric
from services.kit.fence import fence
from services.kit.template import fill, load_template
from services.reward.engine.base import ChatMessages


def render_rubric(rubric: Rubric) -> str:
    """The part of a rubric the judge sees: preamble and LLM criteria. Checks are none of its business."""
    blocks = [rubric.preamble] if rubric.preamble else []
    for criterion in rubric.llm_criteria:
        levels = "\n".join(f"{level}: {text}" for level, text in enumerate(criterion.levels))
        blocks.append(f"Criterion: {criterion.name}\n{criterion.description}\n{levels}")
    return "\n\n".join(blocks)


def render(
    *, role: str, rubric: Rubric, criterion: LlmCriterion, prompt: str, completion: str, fence_key: bytes
) -> ChatMessages:
    """The conversation that asks for one criterion's level."""
    system = fill(load_template("services.reward", "judge_system"), role=role, rubric=render_rubric(rubric))
    user = fill(
        load_template("services.reward", "judge_user"),
        prompt=fence("TASK", prompt, fence_key),
        completion=fence("RESPONSE", completion, fence_key),
        criterion=criterion.name,
    )
    return ({"role": "system", "content": system}, {"role": "user", "content": user})
