"""The judge's conversations: rubric, task, completion, question, in this order. Pure.

Engines cache the computation of a common prefix: the system turn is the same for every item of a rubric, the task for
a group, the completion for all its criteria. A conversation's prefix key lists its parts in that order, by digest.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from regrade.contracts import LlmCriterion, Rubric, unbroken
from services.kit.templates import fill, load_template
from services.kit.text.fence import blake2b_key, enclose, neutralise, utf8
from services.reward.items.text import PreparedText, prepare_text
from services.reward.judge.engine.base import ChatMessages


class PromptPart(NamedTuple):
    """A piece of a conversation, and a digest that distinguishes it from any other piece in its place."""

    text: str
    digest: str


class JudgeConversation(NamedTuple):
    """A conversation with the judge. Equal keys mean equal conversations, keys with a common start a common prefix."""

    messages: ChatMessages
    prefix_key: tuple[str, ...]


class JudgeItem(NamedTuple):
    """An item as the judge sees it: the system turn, the item's texts in their fences, and the criteria to score."""

    system: PromptPart
    task: PromptPart
    reference: PromptPart | None
    response: PromptPart
    criteria: tuple[LlmCriterion, ...]


def judge_item(
    *,
    system: PromptPart,
    task: PromptPart,
    reference: PreparedText | None,
    completion: PreparedText,
    criteria: tuple[LlmCriterion, ...],
    fence_key: bytes,
) -> JudgeItem:
    """An item for the judge; `task` is its prompt, `fenced` once for all of its group."""
    return JudgeItem(
        system,
        task,
        fenced("REFERENCE", reference, fence_key) if reference is not None else None,
        fenced("RESPONSE", completion, fence_key),
        criteria,
    )


def system_turn(role: str, rubric: Rubric, fence_key: bytes) -> PromptPart:
    """The judge's role, how to treat fenced text, and the rubric. The digest depends on the key, as all fences do."""
    text = _template("system", role=role, rubric=_rubric_text(rubric))
    return PromptPart(text, hashlib.blake2b(utf8(text), key=blake2b_key(fence_key), digest_size=32).hexdigest())


def fenced(label: str, text: PreparedText, fence_key: bytes) -> PromptPart:
    """Untrusted text, neutralised, inside its fence."""
    return PromptPart(enclose(label, text.safe, text.safe_digest, fence_key), text.safe_digest.hex())


def level_conversation(item: JudgeItem, criteria: Sequence[LlmCriterion]) -> JudgeConversation:
    """Asks for the level of each criterion, one digit a line."""
    return _opening(item.system, (item.task, item.response), _level_question(criteria))


def rationale_conversation(item: JudgeItem, criterion: LlmCriterion, words: int) -> JudgeConversation:
    """Asks what supports and what weakens the response under one criterion."""
    question = _template("rationale", criterion=unbroken(criterion.name), words=str(words))
    return _opening(item.system, (item.task, item.response), question)


def plan_conversation(item: JudgeItem, words: int) -> JudgeConversation:
    """Asks for a plan to grade any response to the task. Without the response, so that a group shares the plan."""
    return _opening(item.system, (item.task, item.reference), _template("plan", words=str(words)))


def execution_conversation(item: JudgeItem, plan: str, words: int, fence_key: bytes) -> JudgeConversation:
    """Asks for the plan to be executed on the response."""
    parts = (item.task, item.reference, fenced("PLAN", prepare_text(plan), fence_key), item.response)
    return _opening(item.system, parts, _template("execute", words=str(words)))


def append_level_question(
    conversation: JudgeConversation, written: str, criteria: Sequence[LlmCriterion]
) -> JudgeConversation:
    """The conversation with the judge's text and the question for levels. The text may quote the response (I4)."""
    safe, question = neutralise(written).text, _level_question(criteria)
    turns = ({"role": "assistant", "content": safe}, {"role": "user", "content": question})
    return JudgeConversation((*conversation.messages, *turns), (*conversation.prefix_key, safe, question))


def _rubric_text(rubric: Rubric) -> str:
    """Preamble and LLM criteria; checks are not judged. No text of a criterion can begin a line of the rubric's own."""
    blocks = [rubric.preamble] if rubric.preamble else []
    for criterion in rubric.llm_criteria:
        levels = "\n".join(f"{level}: {unbroken(text)}" for level, text in enumerate(criterion.levels))
        blocks.append(f"Criterion: {unbroken(criterion.name)}\n{unbroken(criterion.description)}\n{levels}")
    return "\n\n".join(blocks)


def _level_question(criteria: Sequence[LlmCriterion]) -> str:
    return _question_by_names(tuple([unbroken(criterion.name) for criterion in criteria]))


@lru_cache(maxsize=1_024)
def _question_by_names(names: tuple[str, ...]) -> str:
    if len(names) == 1:
        return _template("level", criterion=names[0])
    numbered = "\n".join(f"{n}. {name}" for n, name in enumerate(names, 1))
    return _template("levels", criteria=numbered, count=str(len(names)))


def _opening(system: PromptPart, parts: Sequence[PromptPart | None], question: str) -> JudgeConversation:
    texts = "".join([f"{part.text}\n\n" for part in parts if part is not None])
    turns = ({"role": "system", "content": system.text}, {"role": "user", "content": texts + question})
    digests = ["" if part is None else part.digest for part in parts]
    return JudgeConversation(turns, (system.digest, *digests, question))


def _template(name: str, **values: str) -> str:
    return fill(load_template("services.reward.judge", name), **values)
