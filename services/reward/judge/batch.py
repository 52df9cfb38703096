"""A batch of items with the judge: the engine calls that a mode makes, and the scores that follow from the answers."""

import asyncio
import math
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple, TypeVar

from regrade.contracts import LEVELS, TOP_LEVEL, LlmCriterion
from services.kit.results import CriterionScore, ItemError, Usage, total_usage
from services.reward.judge.engine.base import Distribution, EngineAnswer, Sampling
from services.reward.judge.engine_client import EngineClient, JudgeContext
from services.reward.judge.prompt import JudgeConversation, JudgeItem
from services.reward.judge.special_tokens import respelt_texts

_LEVEL_TOKENS = tuple(str(level) for level in LEVELS)
_SQUARES = tuple(level * level for level in LEVELS)
_MAX_STD = TOP_LEVEL / 2
_TOKENS_PER_WORD = 2
"""Sizes the token limit of written text. Longer text is cut off, and the level is requested for what is there."""

T = TypeVar("T")


class JudgeLimits(NamedTuple):
    """LLM criteria in one call, longest rationale and plan in words, and rationales drawn and averaged.

    `temperature` applies where several are drawn; a single one is greedy.
    """

    criteria_per_call: int
    rationale_words: int
    plan_words: int
    samples: int
    temperature: float


class ItemScores(NamedTuple):
    """An item's scores by criterion id, the error of the criteria that are missing there, and what the item cost."""

    scores: dict[str, CriterionScore]
    error: ItemError | None
    usage: Usage
    respelt: bool = False
    """Whether the response held special tokens of the engine's tokenizer."""


class Question(NamedTuple):
    """A conversation about criteria of one item, which is given by its index in the batch.

    `rationale` is the text that the judge wrote before its levels are requested.
    """

    item: int
    criteria: tuple[LlmCriterion, ...]
    conversation: JudgeConversation
    rationale: str | None = None


class JudgeBatch:
    """The items of one request; a mode asks about them through `write` and `ask_levels`."""

    def __init__(
        self, client: EngineClient, context: JudgeContext, limits: JudgeLimits, items: Sequence[JudgeItem]
    ) -> None:
        self.items = items
        self.limits = limits
        self.fence_key = context.fence_key
        self._client = client
        self._context = context
        self._usages: list[list[Usage]] = [[] for _ in items]
        self._errors: dict[tuple[int, str], ItemError] = {}
        self._samples: dict[tuple[int, str], list[tuple[Distribution, str | None]]] = {}

    def split(self, criteria: tuple[LlmCriterion, ...]) -> list[tuple[LlmCriterion, ...]]:
        """The criteria in parts that are scored in one call each."""
        size = self.limits.criteria_per_call
        return [criteria[start : start + size] for start in range(0, len(criteria), size)]

    async def write(
        self, questions: Sequence[Question], max_words: int, samples: int = 1
    ) -> list[tuple[Question, str]]:
        """The judge's text for each question, `samples` of each; without those whose call failed."""
        temperature = self.limits.temperature if self.limits.samples > 1 else 0.0
        samplings = [Sampling(max_words * _TOKENS_PER_WORD, temperature, seed) for seed in range(samples)]
        conversations = [question.conversation for question in questions]
        answered = await asyncio.gather(
            *(self._client.write(self._context, conversations, sampling) for sampling in samplings)
        )
        texts = []
        for answers in answered:
            for question, answer in zip(questions, answers, strict=True):
                text = self._record(question, answer)
                if text is not None:
                    texts.append((question, text))
        respelt = await respelt_texts(self._context.engine, [text for _, text in texts])
        return [(question, text) for (question, _), text in zip(texts, respelt, strict=True)]

    async def ask_levels(self, questions: Sequence[Question]) -> None:
        """Ask for the levels of each question's criteria, and record the distributions."""

        async def ask(count: int) -> None:
            of_count = [question for question in questions if len(question.criteria) == count]
            conversations = [question.conversation for question in of_count]
            answers = await self._client.choose(self._context, conversations, _LEVEL_TOKENS, positions=count)
            for question, answer in zip(of_count, answers, strict=True):
                for criterion, distribution in zip(
                    question.criteria, self._record(question, answer) or (), strict=False
                ):
                    samples = self._samples.setdefault((question.item, criterion.id), [])
                    samples.append((distribution, question.rationale))

        await asyncio.gather(*(ask(count) for count in {len(question.criteria) for question in questions}))

    def scores(self) -> list[ItemScores]:
        """Each item's scores, once the mode has made all its engine calls."""
        return [self._item_scores(index, item) for index, item in enumerate(self.items)]

    def _record(self, question: Question, answer: EngineAnswer[T] | ItemError) -> T | None:
        """The answer's value, or None for an error, which then is that of all the question's criteria."""
        if isinstance(answer, ItemError):
            for criterion in question.criteria:
                self._errors.setdefault((question.item, criterion.id), answer)
            return None
        self._usages[question.item].append(answer.usage)
        return answer.value

    def _item_scores(self, index: int, item: JudgeItem) -> ItemScores:
        """A criterion has no score if any call about it failed, its other samples included (I3)."""
        scores: dict[str, CriterionScore] = {}
        error = None
        for criterion in item.criteria:
            key = (index, criterion.id)
            if key in self._errors:
                error = self._errors[key]
            else:
                scores[criterion.id] = self._criterion_score(criterion.id, self._samples[key])
        usages = self._usages[index]
        return ItemScores(scores, error, usages[0] if len(usages) == 1 else total_usage(usages))

    def _criterion_score(self, name: str, samples: Sequence[tuple[Distribution, str | None]]) -> CriterionScore:
        distribution, rationale = samples[0]
        if len(samples) > 1:
            levels = zip(*(sampled for sampled, _ in samples), strict=True)
            distribution = tuple(sum(level) / len(samples) for level in levels)
        return score_of(name, distribution, rationale if self._context.explain else None)


def score_of(name: str, distribution: Distribution, rationale: str | None = None) -> CriterionScore:
    """A criterion's score, the expected level / 5, from a distribution over the levels 0..5.

    The confidence is 1 for all mass on one level, 0 for half of it at either end. Source: the expected score under
    token probabilities is closer to people's than the likeliest one, arXiv 2503.03064.
    """
    mean = sum(map(mul, LEVELS, distribution))
    variance = max(0.0, sum(map(mul, _SQUARES, distribution)) - mean * mean)
    score = min(1.0, max(0.0, mean / TOP_LEVEL))
    return CriterionScore(name, score, max(0.0, 1.0 - math.sqrt(variance) / _MAX_STD), rationale)
