"""Each task's metrics of a policy's completions, and how well a judge orders labelled pairs."""

import re
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from rouge_score import rouge_scorer, tokenizers

from regrade import BlockingRewardClient
from regrade.contracts import LabelledPair, Purpose
from regrade.tasks import TaskPack
from services.kit.text.folding import compatible
from services.kit.text.segments import words
from services.trainer.rewards import AnswerCheck

Metrics = dict[str, float]
Evaluator = Callable[[TaskPack, Sequence[str], Sequence[str | None]], Metrics]
"""Of the task, its completions, and their references."""

UNDECIDED = "undecided"
"""Metric: share of completions whose answer could not be checked."""
_TIE = 0.02
"""Rewards closer than this are a tie; the gate's anchors use the same margin."""
_BATCH = 64
_WITHIN_WORDS = re.compile("['\u2019_-]")


class _RougeTokenizer:
    """Words in any script. The package's own tokenizer, which stems, drops all but a-z and 0-9: it gets ASCII words."""

    def __init__(self) -> None:
        self._ascii = tokenizers.DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text; hyphens and apostrophes part words."""
        parts = (part for word in words(compatible(text)) for part in _WITHIN_WORDS.split(word) if part)
        return [token for part in parts for token in (self._ascii.tokenize(part) if part.isascii() else (part,))]


def rouge(_: TaskPack, completions: Sequence[str], references: Sequence[str | None]) -> Metrics:
    """Mean ROUGE F1 in percent, with stemming, over the prompts that have a reference."""
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(kinds, tokenizer=_RougeTokenizer())
    pairs = zip(references, completions, strict=True)
    scores = [scorer.score(reference, completion) for reference, completion in pairs if reference is not None]
    return {kind: 100.0 * fmean(score[kind].fmeasure for score in scores) for kind in kinds} if scores else {}


def accuracy(pack: TaskPack, completions: Sequence[str], references: Sequence[str | None]) -> Metrics:
    """`accuracy`: percent correct of the answers that could be checked; `undecided`: share of those that could not."""
    check = AnswerCheck(pack)
    try:
        matches = check(completions, references)
    finally:
        check.close()
    decided = [value for value in matches if value is not None]
    correct = {"accuracy": 100.0 * fmean(decided)} if decided else {}
    return correct | {UNDECIDED: 1.0 - len(decided) / len(matches)}


EVALUATORS: dict[str, Evaluator] = {"rouge": rouge, "verdict": accuracy, "math": accuracy}
"""The metrics of a task, by its pack's `evaluator`; `judge` tasks are compared by the tournament alone."""


def task_metrics(pack: TaskPack, completions: Sequence[str], references: Sequence[str | None]) -> Metrics:
    """`words`, the mean length in words, and the metrics of the task's evaluator."""
    evaluator = EVALUATORS.get(pack.evaluator)
    length = {"words": fmean(len(words(text)) for text in completions)}
    return length | evaluator(pack, completions, references) if evaluator else length


def judge_validity(client: BlockingRewardClient, task: str, pairs: Sequence[LabelledPair]) -> Metrics:
    """How `/score` orders labelled pairs.

    `ordered` and `tied` are shares of the `pairs` scored; `auc` is the area under the ROC curve over all their texts;
    `unscored` is the share of pairs without two rewards.
    """
    items = [
        {"id": f"{n}.{side}", "prompt": pair.prompt, "completion": text, "reference": pair.reference}
        for n, pair in enumerate(pairs)
        for side, text in (("better", pair.better), ("worse", pair.worse))
    ]
    rewards: list[float | None] = []
    for start in range(0, len(items), _BATCH):
        response = client.score(task, items[start : start + _BATCH], purpose=Purpose.EVAL)
        rewards.extend(result.reward for result in response.results)
    reward_pairs = zip(rewards[::2], rewards[1::2], strict=True)
    scored = [(better, worse) for better, worse in reward_pairs if better is not None and worse is not None]
    metrics = {"pairs": float(len(scored)), "unscored": 1.0 - len(scored) / len(pairs)}
    if not scored:
        return metrics
    better, worse = np.array(scored).T
    margins = better - worse
    above = (better[:, None] > worse).mean() + 0.5 * (better[:, None] == worse).mean()
    return metrics | {
        "ordered": float((margins >= _TIE).mean()), "tied": float((np.abs(margins) < _TIE).mean()), "auc": float(above)
    }  # fmt: skip
