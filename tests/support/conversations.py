"""The judge's conversations for a rubric of two criteria, by mode and by what is asked."""

from services.reward.items.text import prepare_text
from services.reward.judge.engine.base import ChatMessages
from services.reward.judge.prompt import fenced, plan_conversation, prompt_parts, system_turn
from tests.support.builders import PROMPT, llm, rubric
from tests.support.judge_conversations import FENCE_KEY, conversations
from tests.support.prompt_structure import Render

RUBRIC = rubric(llm("quality"), llm("depth"))

CONVERSATIONS: dict[str, Render] = {
    f"{mode}, {turn}": render
    for mode, renders in conversations(RUBRIC, PROMPT).items()
    for turn, render in renders.items()
}


def plan_for(prompt: str) -> ChatMessages:
    """The one conversation that shows no completion."""
    system = system_turn("an examiner", RUBRIC, FENCE_KEY)
    unseen = prepare_text("unseen")
    task = fenced("TASK", prepare_text(prompt), FENCE_KEY)
    parts = prompt_parts(system=system, task=task, reference=None, completion=unseen, fence_key=FENCE_KEY)
    return plan_conversation(parts, 40).messages
