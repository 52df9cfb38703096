"""The judge's conversations, most shared part first: rubric, task, completion, question. Pure.

Engines compute an equal beginning once: the system turn is the same for every item of a rubric, the
task for a group, the completion for all its criteria. Each conversation knows its path: the parts it
is made of, by digest, in that order.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from regrade.contracts import LlmCriterion, Rubric
from services.kit.templates import fill, load_template
from services.kit.text.fence import enclose, neutralise, utf8
from services.reward.items.text import PreparedText, prepare_text
from services.reward.judge.engine.base import ChatMessages


class PromptPart(NamedTuple):
    """A piece of a conversation, and what tells it from every other piece that can stand in its place."""

    text: str
    digest: str


class JudgeConversation(NamedTuple):
    """A conversation and its path. Equal paths are equal conversations; a common start is a common prefix."""

    messages: ChatMessages
    path: tuple[str, ...]


class PromptParts(NamedTuple):
    """What the judge is shown of one item: the system turn, and the task, reference and response in their fences."""

    system: PromptPart
    task: PromptPart
    reference: PromptPart | None
    response: PromptPart


def render_rubric(rubric: Rubric) -> str:
    """The part of a rubric the judge sees: preamble and LLM criteria. Checks are none of its business."""
    blocks = [rubric.preamble] if rubric.preamble else []
    for criterion in rubric.llm_criteria:
        levels = "\n".join(f"{level}: {text}" for level, text in enumerate(criterion.levels))
        blocks.append(f"Criterion: {criterion.name}\n{criterion.description}\n{levels}")
    return "\n\n".join(blocks)


def system_turn(role: str, rubric: Rubric, fence_key: bytes) -> PromptPart:
    """Who the judge is, what is material, and the rubric. Its digest stands for the key of all fences, too."""
    text = _filled("system", role=role, rubric=render_rubric(rubric))
    return PromptPart(text, hashlib.blake2b(utf8(text), key=_short(fence_key), digest_size=32).hexdigest())


def fenced(label: str, text: PreparedText, fence_key: bytes) -> PromptPart:
    """A text that nobody vouches for, as it is shown."""
    return PromptPart(enclose(label, text.safe, text.safe_digest, fence_key), text.safe_digest.hex())


def prompt_parts(
    *, system: PromptPart, task: PromptPart, reference: PreparedText | None, completion: PreparedText, fence_key: bytes
) -> PromptParts:
    """An item as it is shown to the judge; `task` is its prompt, `fenced` once for all of its group."""
    return PromptParts(
        system,
        task,
        fenced("REFERENCE", reference, fence_key) if reference is not None else None,
        fenced("RESPONSE", completion, fence_key),
    )


def level_conversation(shown: PromptParts, criteria: Sequence[LlmCriterion]) -> JudgeConversation:
    """Asks for the level of each criterion, one digit a line."""
    return _opening(shown.system, (shown.task, shown.response), _level_question(criteria))


def rationale_conversation(shown: PromptParts, criterion: LlmCriterion, words: int) -> JudgeConversation:
    """Asks what speaks for and against one criterion."""
    question = _filled("rationale", criterion=criterion.name, words=str(words))
    return _opening(shown.system, (shown.task, shown.response), question)


def plan_conversation(shown: PromptParts, words: int) -> JudgeConversation:
    """Asks for a plan that holds for every response to the task: the same for a whole group."""
    return _opening(shown.system, (shown.task, shown.reference), _filled("plan", words=str(words)))


def execution_conversation(shown: PromptParts, plan: str, words: int, fence_key: bytes) -> JudgeConversation:
    """Asks for the plan to be carried out on the response."""
    seen = (shown.task, shown.reference, fenced("PLAN", prepare_text(plan), fence_key), shown.response)
    return _opening(shown.system, seen, _filled("execute", words=str(words)))


def append_level_question(
    asked: JudgeConversation, written: str, criteria: Sequence[LlmCriterion]
) -> JudgeConversation:
    """Goes on from what the judge wrote to the level of each criterion. What it wrote may quote the response."""
    said, question = neutralise(written).text, _level_question(criteria)
    turns = ({"role": "assistant", "content": said}, {"role": "user", "content": question})
    return JudgeConversation((*asked.messages, *turns), (*asked.path, said, question))


def _level_question(criteria: Sequence[LlmCriterion]) -> str:
    return _question_about(tuple([criterion.name for criterion in criteria]))


@lru_cache(maxsize=1_024)
def _question_about(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return _filled("level", criterion=names[0])
    listed = "\n".join(f"{n}. {name}" for n, name in enumerate(names, 1))
    return _filled("levels", criteria=listed, count=str(len(names)))


def _opening(system: PromptPart, seen: Sequence[PromptPart | None], question: str) -> JudgeConversation:
    told = "".join([f"{part.text}\n\n" for part in seen if part is not None])
    turns = ({"role": "system", "content": system.text}, {"role": "user", "content": told + question})
    return JudgeConversation(turns, (system.digest, *["" if part is None else part.digest for part in seen], question))


def _filled(name: str, **values: str) -> str:
    return fill(load_template("services.reward.judge", name), **values)


def _short(key: bytes) -> bytes:
    return key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.sha256(key).digest()
