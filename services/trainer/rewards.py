"""The reward function given to TRL: the judge's reward, the exact answer check, or both.

TRL sums the rewards of several functions and skips missing ones, so a completion whose judge failed would be rewarded
for its answer alone. Here the reward is missing when any of its parts is.
"""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from regrade.adapters.trl import RegradeReward
from regrade.contracts.content import read_completion, read_reference
from regrade.tasks import TaskPack
from services.kit.checks.answer import equal_answer
from services.kit.checks.base import CheckError
from services.kit.checks.workers import CheckWorkers
from services.kit.text.label_match import last_label, normalise
from services.kit.text.reasoning import part_reasoning
from services.trainer.settings import RewardMix

Rewards = list[float | None]
_MATH_TIMEOUT_S = 10.0
"""Some expressions take symbolic comparison forever; such an answer is undecided."""
_MATH_WORKERS = 2


class AnswerCheck:
    """Exact check of final answers: 1 for a match with the reference, 0 for none, None where it is undecided.

    Undecided are completions without a reference, and comparisons that fail or time out.
    """

    def __init__(self, pack: TaskPack) -> None:
        if pack.evaluator not in {"math", "verdict"}:
            raise ValueError(f"task {pack.name!r} has no exact answer: its evaluator is {pack.evaluator!r}")
        self._labels = pack.verdicts
        is_math = pack.evaluator == "math"
        self._workers = CheckWorkers(timeout_s=_MATH_TIMEOUT_S, workers=_MATH_WORKERS) if is_math else None

    def __call__(self, completions: Sequence[str], references: Sequence[str | None]) -> Rewards:
        """One entry per completion, in order."""
        pairs = list(zip(completions, references, strict=True))
        if self._workers is None:
            return [self._label(completion, reference) for completion, reference in pairs]
        with ThreadPoolExecutor(1) as executor:  # the caller's thread may run an event loop of its own
            return executor.submit(asyncio.run, self._math(self._workers, pairs)).result()

    def _label(self, completion: str, reference: str | None) -> float | None:
        if reference is None:
            return None
        label = last_label(part_reasoning(completion).answer, self._labels)
        return float(label is not None and label == normalise(reference))

    async def _math(self, workers: CheckWorkers, pairs: Sequence[tuple[str, str | None]]) -> Rewards:
        share = workers.share()

        async def compare(completion: str, reference: str | None) -> float | None:
            if reference is None:
                return None
            try:
                return await equal_answer(share, completion, reference)
            except CheckError:
                return None

        return list(await asyncio.gather(*(compare(*pair) for pair in pairs)))

    def close(self) -> None:
        """End the worker processes."""
        if self._workers is not None:
            self._workers.close()


def reward_source(mix: RewardMix, seed: int, step: int) -> Literal["judge", "answer"]:
    """Which of the two rewards a step under `by="coin"`; the same on every rank and after a resume."""
    coin = random.Random(f"{seed}:{step}").random()  # noqa: S311 - reproducible, not a secret
    return "judge" if coin * (mix.judge + mix.answer) < mix.judge else "answer"


class MixedReward:
    """A TRL reward function: the weighted mean of judge and answer check; None where a part with weight is missing."""

    def __init__(self, mix: RewardMix, judge: RegradeReward, answer: AnswerCheck | None, seed: int) -> None:
        self.__name__ = "regrade"
        self._mix = mix
        self._judge = judge
        self._answer = answer
        self._seed = seed

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Rewards:
        """Score one batch; the dataset's columns, `trainer_state` and `log_metric` are passed by TRL."""
        judge_weight, answer_weight = self._weights(columns.get("trainer_state"))
        parts: list[tuple[float, Rewards]] = []
        if judge_weight:
            parts.append((judge_weight, self._judge(prompts, completions, **columns)))
        if answer_weight:
            parts.append((answer_weight, self._check(completions, columns)))
        total = sum(weight for weight, _ in parts)
        weights = [weight / total for weight, _ in parts]
        return [_weighted(weights, values) for values in zip(*(rewards for _, rewards in parts), strict=True)]

    def close(self) -> None:
        """Close the judge's connections and the answer check's workers."""
        self._judge.close()
        if self._answer is not None:
            self._answer.close()

    def _weights(self, state: Any) -> tuple[float, float]:
        mix = self._mix
        if mix.by == "sum" or not (mix.judge and mix.answer):
            return mix.judge, mix.answer
        source = reward_source(mix, self._seed, state.global_step if state is not None else 0)
        return (1.0, 0.0) if source == "judge" else (0.0, 1.0)

    def _check(self, completions: Sequence[Any], columns: dict[str, Any]) -> Rewards:
        assert self._answer is not None
        references = columns.get("reference") or [None] * len(completions)
        pairs = [_pair(completion, label) for completion, label in zip(completions, references, strict=True)]
        matches = self._answer([completion for completion, _ in pairs], [reference for _, reference in pairs])
        decided = [value for value in matches if value is not None]
        if decided and columns.get("log_metric") is not None:
            columns["log_metric"]("regrade/answer", sum(decided) / len(decided))
        return matches


def _weighted(weights: Sequence[float], values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(w * v for w, v in zip(weights, present, strict=True)) if len(present) == len(values) else None


def _pair(completion: Any, label: Any) -> tuple[str, str | None]:
    """Completion and label as the client reads them; no reference, so undecided, where one of them cannot be read."""
    try:
        content, reference = read_completion(completion), read_reference(label)
    except ValueError:
        return "", None
    return content if isinstance(content, str) else "\n\n".join(turn["content"] for turn in content), reference
