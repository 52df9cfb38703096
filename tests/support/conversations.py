"""Every conversation the judge is asked, for one completion: what must hold for a prompt must hold for all of these."""

from collections.abc import Callable

from regrade import Rubric
from services.reward.engine.base import ChatMessages
from services.reward.prompt import (
    Material,
    ask_execution,
    ask_levels,
    ask_plan,
    ask_rationale,
    material,
    system_turn,
    then_levels,
)
from tests.support.builders import PROMPT, llm, rubric

KEY = b"the service's own key"
RUBRIC = rubric(llm("quality"), llm("depth"))
ROLE = "an examiner"

Render = Callable[[str], ChatMessages]


def _levels(completion: str, used: Rubric = RUBRIC, count: int = 1) -> ChatMessages:
    return ask_levels(_shown(completion, used), used.llm_criteria[:count])


def _rationale(completion: str) -> ChatMessages:
    return ask_rationale(_shown(completion), RUBRIC.llm_criteria[0], 40)


def _execution(completion: str) -> ChatMessages:
    return ask_execution(_shown(completion), "First look for an answer.", 40, KEY)


def _shown(completion: str, used: Rubric = RUBRIC, reference: str | None = "A reference.") -> Material:
    system = system_turn(ROLE, used)
    return material(system=system, prompt=PROMPT, reference=reference, completion=completion, fence_key=KEY)


CONVERSATIONS: dict[str, Render] = {
    "expected": _levels,
    "expected, two criteria": lambda completion: _levels(completion, count=2),
    "reasoned, the rationale": _rationale,
    "reasoned, the level": lambda text: then_levels(_rationale(text), "It answers.", RUBRIC.llm_criteria[:1]),
    "planned, the execution": _execution,
    "planned, the levels": lambda text: then_levels(_execution(text), "It answers.", RUBRIC.llm_criteria),
}
"""By mode and step, from a completion to what the engine is sent."""


def plan_for(prompt: str) -> ChatMessages:
    """The one conversation that shows no completion."""
    shown = material(system="s", prompt=prompt, reference=None, completion="unseen", fence_key=KEY)
    return ask_plan(shown, 40)
