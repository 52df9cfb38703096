"""The judge: scores for the LLM criteria of an item, in one of three modes."""

import asyncio
import math
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

from regrade.contracts import LEVELS, TOP_LEVEL, LlmCriterion, Mode
from services.kit.results import ItemError, Usage, total_usage
from services.reward.judge.engine.base import Distribution, Sampling
from services.reward.judge.engine_client import Answer, EngineClient, JudgeContext
from services.reward.judge.prompt import (
    JudgeConversation,
    PromptParts,
    append_level_question,
    execution_conversation,
    level_conversation,
    plan_conversation,
    rationale_conversation,
)

_CHOICES = tuple(str(level) for level in LEVELS)
_SQUARES = tuple(level * level for level in LEVELS)
_WIDEST_STD = TOP_LEVEL / 2
_TOKENS_A_WORD = 2
"""Room for what is written: a text that runs on is cut off there, and its level asked for all the same."""


class JudgeLimits(NamedTuple):
    """Criteria asked in one call, words of a rationale and of a plan, and how many rationales are averaged."""

    criteria_per_call: int
    rationale_words: int
    plan_words: int
    samples: int
    temperature: float


class Judgement(NamedTuple):
    """An expected score in [0, 1], how concentrated the levels' distribution is (1: one level, 0: the ends), why."""

    score: float
    confidence: float
    rationale: str | None = None


class JudgeItem(NamedTuple):
    """An item to be judged."""

    shown: PromptParts
    criteria: tuple[LlmCriterion, ...]


class ItemScores(NamedTuple):
    """A judgement or an error for each criterion of an exam, by id, and what the engine was billed for them."""

    judgements: dict[str, Judgement | ItemError]
    usage: Usage


class _Question(NamedTuple):
    """A conversation that asks for the levels of some criteria of an exam; the rationale, where one came before."""

    exam: int
    criteria: tuple[LlmCriterion, ...]
    chat: JudgeConversation
    rationale: str | None = None


def judgement_of(probabilities: Sequence[float], rationale: str | None = None) -> Judgement:
    """Expected level / 5 and confidence of a distribution over levels 0..5.

    Source: expected score from token probabilities beats the mode, arXiv 2503.03064.
    """
    mean = sum(map(mul, LEVELS, probabilities))
    variance = max(0.0, sum(map(mul, _SQUARES, probabilities)) - mean * mean)
    score = min(1.0, max(0.0, mean / TOP_LEVEL))
    return Judgement(score, max(0.0, 1.0 - math.sqrt(variance) / _WIDEST_STD), rationale)


class Judge:
    """Asks an engine for levels, after a rationale or by a plan where the mode says so."""

    def __init__(self, calls: EngineClient, limits: JudgeLimits) -> None:
        self._calls = calls
        self._limits = limits

    async def judge(self, context: JudgeContext, mode: Mode, exams: Sequence[JudgeItem]) -> list[ItemScores]:
        """One verdict an exam, in order. A criterion that fails has its error; all the others go on."""
        sheet = _Sheet(exams)
        if mode is Mode.REASONED:
            questions = await self._reason(context, sheet)
        elif mode is Mode.PLANNED:
            questions = await self._carry_out(context, sheet)
        else:
            questions = [
                _Question(n, shard, level_conversation(exam.shown, shard))
                for n, exam in enumerate(exams)
                for shard in self._shards(exam)
            ]
        await self._ask_levels(context, sheet, questions)
        return sheet.verdicts()

    async def aclose(self) -> None:
        """Drop the calls under way."""
        await self._calls.aclose()

    def _shards(self, exam: JudgeItem) -> list[tuple[LlmCriterion, ...]]:
        size = self._limits.criteria_per_call
        return [exam.criteria[start : start + size] for start in range(0, len(exam.criteria), size)]

    async def _reason(self, context: JudgeContext, sheet: "_Sheet") -> list[_Question]:
        """A rationale for each criterion, `samples` of them, each followed by its level (the paper's way)."""
        asked = [
            _Question(n, (criterion,), rationale_conversation(exam.shown, criterion, self._limits.rationale_words))
            for n, exam in enumerate(sheet.exams)
            for criterion in exam.criteria
        ]
        drawn = await asyncio.gather(
            *(self._write(context, asked, self._limits.rationale_words, seed) for seed in range(self._limits.samples))
        )
        return [
            _Question(q.exam, q.criteria, append_level_question(q.chat, text, q.criteria), text)
            for answers in drawn
            for q, text in sheet.written(asked, answers)
        ]

    async def _carry_out(self, context: JudgeContext, sheet: "_Sheet") -> list[_Question]:
        """A plan for each task, carried out on each response, followed by the levels (the paper's way for math)."""
        limits = self._limits
        wanted = [
            _Question(n, exam.criteria, plan_conversation(exam.shown, limits.plan_words))
            for n, exam in enumerate(sheet.exams)
            if exam.criteria
        ]
        plans = sheet.written(wanted, await self._write(context, wanted, limits.plan_words, 0))
        asked = [
            q._replace(
                chat=execution_conversation(sheet.exams[q.exam].shown, plan, limits.rationale_words, context.fence_key)
            )
            for q, plan in plans
        ]
        drawn = await asyncio.gather(
            *(self._write(context, asked, limits.rationale_words, seed) for seed in range(limits.samples))
        )
        return [
            _Question(q.exam, shard, append_level_question(q.chat, text, shard), text)
            for answers in drawn
            for q, text in sheet.written(asked, answers)
            for shard in self._shards(sheet.exams[q.exam])
        ]

    async def _write(self, context: JudgeContext, asked: Sequence[_Question], words: int, seed: int) -> list[Answer]:
        temperature = self._limits.temperature if self._limits.samples > 1 else 0.0
        sampling = Sampling(words * _TOKENS_A_WORD, temperature, seed)
        return await self._calls.write(context, [question.chat for question in asked], sampling)

    async def _ask_levels(self, context: JudgeContext, sheet: "_Sheet", questions: Sequence[_Question]) -> None:
        async def of_size(size: int) -> None:
            alike = [question for question in questions if len(question.criteria) == size]
            answers = await self._calls.choose(context, [q.chat for q in alike], _CHOICES, positions=size)
            for question, answer in zip(alike, answers, strict=True):
                sheet.enter(question, answer)

        await asyncio.gather(*(of_size(size) for size in {len(question.criteria) for question in questions}))


class _Sheet:
    """What is known of a batch of exams: bills, errors, and the distributions drawn for each criterion."""

    def __init__(self, exams: Sequence[JudgeItem]) -> None:
        self.exams = exams
        self._bills: list[list[Usage]] = [[] for _ in exams]
        self._errors: dict[tuple[int, str], ItemError] = {}
        self._drawn: dict[tuple[int, str], list[tuple[Distribution, str | None]]] = {}

    def written(self, asked: Sequence[_Question], answers: Sequence[Answer]) -> list[tuple[_Question, str]]:
        """The questions that were answered by a text; the others' criteria have failed."""
        told = []
        for question, answer in zip(asked, answers, strict=True):
            self._bill(question, answer)
            if isinstance(answer.judged, str):
                told.append((question, answer.judged))
        return told

    def enter(self, question: _Question, answer: Answer) -> None:
        """Note the levels of a question's criteria."""
        self._bill(question, answer)
        if isinstance(answer.judged, tuple):
            for criterion, distribution in zip(question.criteria, answer.judged, strict=True):
                drawn = self._drawn.setdefault((question.exam, criterion.id), [])
                drawn.append((distribution, question.rationale))

    def verdicts(self) -> list[ItemScores]:
        """One an exam: a criterion's judgement is its mean distribution's, unless any part of it failed."""
        return [
            ItemScores({c.id: self._judgement(n, c.id) for c in exam.criteria}, _sum_of(self._bills[n]))
            for n, exam in enumerate(self.exams)
        ]

    def _judgement(self, exam: int, criterion: str) -> Judgement | ItemError:
        failed = self._errors.get((exam, criterion))
        if failed is not None:
            return failed
        drawn = self._drawn[exam, criterion]
        if len(drawn) == 1:
            return judgement_of(*drawn[0])
        mean = [sum(levels) / len(drawn) for levels in zip(*(distribution for distribution, _ in drawn), strict=True)]
        return judgement_of(mean, drawn[0][1])

    def _bill(self, question: _Question, answer: Answer) -> None:
        self._bills[question.exam].append(answer.usage)
        if isinstance(answer.judged, ItemError):
            for criterion in question.criteria:
                self._errors.setdefault((question.exam, criterion.id), answer.judged)


def _sum_of(bills: Sequence[Usage]) -> Usage:
    return bills[0] if len(bills) == 1 else total_usage(bills)
