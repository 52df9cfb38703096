"""Every conversation the judge is asked, as functions of the completion: what must hold of a prompt holds in all.

The plan is none of them: it is made before any completion is seen.
"""

from regrade.contracts import Mode, Rubric
from services.reward.items.text import prepare_text
from services.reward.judge.prompt import (
    JudgeConversation,
    PromptParts,
    append_level_question,
    execution_conversation,
    fenced,
    level_conversation,
    prompt_parts,
    rationale_conversation,
    system_turn,
)
from tests.support.prompt_structure import Render

FENCE_KEY = b"a key of nobody else's"
_WORDS = 40
_WRITTEN = "It answers the task."


def conversations(rubric: Rubric, prompt: str, role: str = "an examiner") -> dict[Mode, dict[str, Render]]:
    """By mode and by what is asked. `rubric` needs an LLM criterion."""
    criteria = rubric.llm_criteria
    system = system_turn(role, rubric, FENCE_KEY)
    task = fenced("TASK", prepare_text(prompt), FENCE_KEY)

    def shown(completion: str) -> PromptParts:
        return prompt_parts(
            system=system,
            task=task,
            reference=prepare_text("A reference."),
            completion=prepare_text(completion),
            fence_key=FENCE_KEY,
        )

    def rationale(completion: str) -> JudgeConversation:
        return rationale_conversation(shown(completion), criteria[0], _WORDS)

    def execution(completion: str) -> JudgeConversation:
        return execution_conversation(shown(completion), "First look for an answer.", _WORDS, FENCE_KEY)

    return {
        Mode.EXPECTED: {
            "level": lambda completion: level_conversation(shown(completion), criteria[:1]).messages,
            "levels": lambda completion: level_conversation(shown(completion), criteria).messages,
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
