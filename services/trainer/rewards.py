"""What a completion's reward is made of: the judge's, the exact check's, or both, as one function for TRL.

TRL sums the rewards that several functions give and leaves out those that are missing; a completion whose judge
failed would then be paid for its answer alone. Here a reward that lacks a part is no reward.
"""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from regrade.adapters.trl import RegradeReward
from regrade.tasks import TaskPack
from services.kit.text.label_match import last_verdict, normal
from services.kit.text.math_equal import MathEqualPool
from services.trainer.settings import RewardMix

Rewards = list[float | None]
_MATH_WORKERS = 2


class AnswerCheck:
    """1 where a completion's final answer, or verdict, is its reference, else 0; None where that was not decided."""

    def __init__(self, pack: TaskPack) -> None:
        if pack.evaluator not in {"math", "verdict"}:
            raise ValueError(f"task {pack.name!r} has no exact answer: its evaluator is {pack.evaluator!r}")
        self._verdicts = pack.verdicts
        self._pool = MathEqualPool(timeout_s=10.0, workers=_MATH_WORKERS) if pack.evaluator == "math" else None

    def __call__(self, completions: Sequence[str], references: Sequence[str | None]) -> Rewards:
        """One entry a completion, in order."""
        pairs = list(zip(completions, references, strict=True))
        if self._pool is None:
            return [self._verdict(completion, reference) for completion, reference in pairs]
        with ThreadPoolExecutor(1) as aside:  # the caller's thread may run a loop of its own
            return aside.submit(asyncio.run, self._math(pairs)).result()

    def _verdict(self, completion: str, reference: str | None) -> float | None:
        if reference is None:
            return None
        found = last_verdict(completion, self._verdicts)
        return float(found is not None and found == normal(reference))

    async def _math(self, pairs: Sequence[tuple[str, str | None]]) -> Rewards:
        assert self._pool is not None
        pool = self._pool

        async def one(completion: str, reference: str | None) -> float | None:
            if reference is None:
                return None
            try:
                return float(await pool.equal(completion, reference))
            except (OSError, asyncio.CancelledError):
                return None

        return list(await asyncio.gather(*(one(completion, reference) for completion, reference in pairs)))

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.close()


def drawn(mix: RewardMix, seed: int, step: int) -> Literal["judge", "answer"]:
    """Which of the two a step is paid by: the same on every rank and after a resume."""
    coin = random.Random(f"{seed}:{step}").random()  # noqa: S311 - a fixed choice, not a secret
    return "judge" if coin * (mix.judge + mix.answer) < mix.judge else "answer"


class MixedReward:
    """A TRL reward function: the mix of both, None where a part that counts is missing."""

    def __init__(self, mix: RewardMix, judge: RegradeReward, answer: AnswerCheck | None, seed: int) -> None:
        self.__name__ = "regrade"
        self._mix = mix
        self._judge = judge
        self._answer = answer
        self._seed = seed

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        """Score one batch; the dataset's columns, `trainer_state` and `log_metric` come as TRL hands them."""
        judged, checked = self._weights(columns.get("trainer_state"))
        parts: list[tuple[float, Rewards]] = []
        if judged:
            parts.append((judged, self._judge(prompts, completions, **columns)))
        if checked:
            parts.append((checked, self._check(completions, columns)))
        total = sum(weight for weight, _ in parts)
        rows = zip(*(rewards for _, rewards in parts), strict=True)
        return [_weighted([weight / total for weight, _ in parts], row) for row in rows]

    def close(self) -> None:
        """Close what the parts hold."""
        self._judge.close()
        if self._answer is not None:
            self._answer.close()

    def _weights(self, state: Any) -> tuple[float, float]:
        mix = self._mix
        if mix.by == "sum" or not (mix.judge and mix.answer):
            return mix.judge, mix.answer
        chosen = drawn(mix, self._seed, state.global_step if state is not None else 0)
        return (1.0, 0.0) if chosen == "judge" else (0.0, 1.0)

    def _check(self, completions: Sequence[Any], columns: dict[str, Any]) -> Rewards:
        assert self._answer is not None
        references = columns.get("reference") or [None] * len(completions)
        found = self._answer([_text(completion) for completion in completions], references)
        known = [value for value in found if value is not None]
        if known and columns.get("log_metric") is not None:
            columns["log_metric"]("regrade/answer", sum(known) / len(known))
        return found


def _weighted(weights: Sequence[float], row: Sequence[float | None]) -> float | None:
    known = [value for value in row if value is not None]
    return sum(w * v for w, v in zip(weights, known, strict=True)) if len(known) == len(row) else None


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else "\n\n".join(turn.get("content") or "" for turn in completion)
