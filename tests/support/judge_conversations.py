"""Every conversation of the judge as a function of the completion, so that one test covers all prompts of all modes."""

from regrade.contracts import Mode, Rubric
from services.reward.items.text import prepare_text
from services.reward.judge.engine.base import ChatMessages
from services.reward.judge.prompt import (
    JudgeConversation,
    JudgeItem,
    append_level_question,
    execution_conversation,
    fenced,
    judge_item,
    level_conversation,
    plan_conversation,
    rationale_conversation,
    system_turn,
)
from tests.support.builders import PROMPT, llm, rubric
from tests.support.prompt_structure import Render

FENCE_KEY = b"fence key of the tests"
RUBRIC = rubric(llm("quality"), llm("depth"))
_WORDS = 40
_WRITTEN = "It answers the task."


def conversations(rubric: Rubric, prompt: str, role: str = "an examiner") -> dict[Mode, dict[str, Render]]:
    """By mode and by what the judge has to answer. `rubric` needs an LLM criterion.

    The plan is missing: its conversation does not contain the completion, see `plan_for`.
    """
    criteria = rubric.llm_criteria

    def item(completion: str) -> JudgeItem:
        return _item(rubric, prompt, completion, role)

    def rationale(completion: str) -> JudgeConversation:
        return rationale_conversation(item(completion), criteria[0], _WORDS)

    def execution(completion: str) -> JudgeConversation:
        return execution_conversation(item(completion), "First look for an answer.", _WORDS, FENCE_KEY)

    return {
        Mode.EXPECTED: {
            "level": lambda completion: level_conversation(item(completion), criteria[:1]).messages,
            "levels": lambda completion: level_conversation(item(completion), criteria).messages,
        },
        Mode.REASONED: {
            "rationale": lambda completion: rationale(completion).messages,
            "level": lambda completion: append_level_question(rationale(completion), _WRITTEN, criteria[:1]).messages,
        },
        Mode.PLANNED: {
            "execution": lambda completion: execution(completion).messages,
            "levels": lambda completion: append_level_question(execution(completion), _WRITTEN, criteria).messages,
        },
    }


CONVERSATIONS: dict[str, Render] = {
    f"{mode}, {answer}": render
    for mode, renders in conversations(RUBRIC, PROMPT).items()
    for answer, render in renders.items()
}


def plan_for(prompt: str) -> ChatMessages:
    """The conversation that asks for a plan."""
    return plan_conversation(_item(RUBRIC, prompt, "a completion", "an examiner"), _WORDS).messages


def _item(rubric: Rubric, prompt: str, completion: str, role: str) -> JudgeItem:
    return judge_item(
        system=system_turn(role, rubric, FENCE_KEY),
        task=fenced("TASK", prepare_text(prompt), FENCE_KEY),
        reference=prepare_text("A reference."),
        completion=prepare_text(completion),
        criteria=rubric.llm_criteria,
        fence_key=FENCE_KEY,
    )
