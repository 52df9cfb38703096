"""Each task's own measure of a policy's completions, and how well a judge orders labelled pairs."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from rouge_score import rouge_scorer

from regrade import BlockingRewardClient
from regrade.contracts import LabelledPair, Purpose
from regrade.tasks import TaskPack
from services.trainer.rewards import AnswerCheck

Figures = dict[str, float]

_TIE = 0.02
_BATCH = 64


def measure(pack: TaskPack, completions: Sequence[str], references: Sequence[str | None]) -> Figures:
    """`words` for every task, with `rouge1`, `rouge2`, `rougeL` or `accuracy` and `undecided` where it has them."""
    figures = {"words": fmean(len(text.split()) for text in completions)}
    if pack.evaluator == "rouge":
        return figures | rouge(completions, references)
    if pack.evaluator in {"verdict", "math"}:
        return figures | accuracy(pack, completions, references)
    return figures


def rouge(completions: Sequence[str], references: Sequence[str | None]) -> Figures:
    """Mean F1 in percent, with stemming; a prompt without a reference is left out."""
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    pairs = zip(references, completions, strict=True)
    scores = [scorer.score(reference, completion) for reference, completion in pairs if reference is not None]
    return {kind: 100.0 * fmean(score[kind].fmeasure for score in scores) for kind in kinds} if scores else {}


def accuracy(pack: TaskPack, completions: Sequence[str], references: Sequence[str | None]) -> Figures:
    """Percent right of what could be decided, and the share that could not."""
    check = AnswerCheck(pack)
    try:
        found = check(completions, references)
    finally:
        check.close()
    known = [value for value in found if value is not None]
    right = {"accuracy": 100.0 * fmean(known)} if known else {}
    return right | {"undecided": 1.0 - len(known) / len(found)}


def validity(client: BlockingRewardClient, task: str, pairs: Sequence[LabelledPair]) -> Figures:
    """How `/score` orders labelled pairs: `ordered` and `tied` shares, `auc` over all texts, `unscored` share."""
    items = [
        {"id": f"{n}.{side}", "prompt": pair.prompt, "completion": text, "reference": pair.reference}
        for n, pair in enumerate(pairs)
        for side, text in (("better", pair.better), ("worse", pair.worse))
    ]
    rewards: list[float | None] = []
    for start in range(0, len(items), _BATCH):
        answer = client.score(task, items[start : start + _BATCH], purpose=Purpose.EVAL)
        rewards.extend(result.reward for result in answer.results)
    both = zip(rewards[::2], rewards[1::2], strict=True)
    known = [(better, worse) for better, worse in both if better is not None and worse is not None]
    told = {"pairs": float(len(known)), "unscored": 1.0 - len(known) / len(pairs)}
    if not known:
        return told
    better, worse = np.array(known).T
    gaps = better - worse
    above = (better[:, None] > worse).mean() + 0.5 * (better[:, None] == worse).mean()
    return told | {
        "ordered": float((gaps >= _TIE).mean()), "tied": float((np.abs(gaps) < _TIE).mean()), "auc": float(above)
    }  # fmt: skip
