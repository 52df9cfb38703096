"""TRL (`GRPOTrainer`, `RLOOTrainer`, `AsyncGRPOTrainer`): a reward function that scores a batch through `/score`.

trainer = GRPOTrainer(model, reward_funcs=RegradeReward("essay_writing", run="run-1"), ...)
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

from regrade.adapters.chat import text_or_conversation
from regrade.adapters.core import Scorer, rank, scoring_config
from regrade.client import BlockingRewardClient
from regrade.contracts import ItemResult, Purpose, ScoreItem, ScoreResponse

Turns = Sequence[Mapping[str, Any]]


class TrainerState(Protocol):
    """What TRL tells of its progress."""

    global_step: int


class RegradeReward:
    """A TRL reward function. Pins by (run, step), so every rank of a step is scored by one rubric.

    Returns one reward in [0, 1] a completion, None where it could not be scored (TRL leaves those
    out); raises `regrade.RegradeError` when the service stays away longer than the client's patience.
    Logs the rubric version, the mean of each criterion and the share of each flag to the trainer's log:
    `regrade/flag/unpinned` above 0 tells of a step scored while the service's Redis was away; with
    `on_outage="refuse"` among the `options` the client waits for Redis instead.

    Batches of `trainer.evaluate()` are scored with purpose `eval`, so that they are no evidence of what the
    policy learns to please. TRL hands a reward function nothing that says so; what it goes by itself is whether
    the trainer's model is in training mode, and `log_metric` is a method of that trainer. Where it is not, batches
    count as training; `purpose="eval"` among the `options` says otherwise for all of them.

    `run` names the training run: a new name for every run that starts anew, the same one when it resumes.
    `rank` tells apart the item ids of several processes, as the launcher numbers them unless told otherwise;
    `max_tokens` (the trainer's `max_completion_length`) marks completions that were cut off as truncated.
    `AsyncGRPOTrainer`, which tells no step, pins by group; it takes the function to another process, so give it no
    `client` of your own. What is not given comes from the environment, see `regrade.adapters.core`.
    """

    def __init__(
        self,
        task: str | None = None,
        *,
        run: str | None = None,
        url: str | None = None,
        key: str | None = None,
        patience_s: float | None = None,
        rank: int | None = None,
        max_tokens: int | None = None,
        client: BlockingRewardClient | None = None,
        **options: Any,
    ) -> None:
        self.__name__ = "regrade"
        self._scorer = Scorer(scoring_config(task=task, run=run, url=url, key=key, patience_s=patience_s))
        self._rank = rank
        self._max_tokens = max_tokens
        self._options = options
        self._client = client

    def __call__(
        self,
        prompts: Sequence[str | Turns],
        completions: Sequence[str | Turns],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        trainer_state: TrainerState | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        reference: Sequence[str | None] | None = None,
        scope: Sequence[str | None] | None = None,
        first: int = 0,
        **columns: Any,
    ) -> list[float | None]:
        """Score one batch; `reference` and `scope` are columns of the dataset, other columns are ignored.

        `first` is the number of the first completion where a step's batch is scored in parts.
        """
        step = trainer_state.global_step if trainer_state is not None and self._scorer.config.run else None
        number = rank() if self._rank is None else self._rank
        items = [
            ScoreItem(
                id=f"{number}.{first + index}" if step is not None else None,
                prompt=text_or_conversation(prompt),
                completion=text_or_conversation(completion),
                reference=reference[index] if reference is not None else None,
                scope=scope[index] if scope is not None else None,
                truncated=self._is_cut(completion_ids[index]) if completion_ids is not None else False,
            )
            for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        options = {"purpose": _purpose(log_metric)} | self._options
        response = self._scored(items, step=step, **options)
        if log_metric is not None:
            for name, value in batch_metrics(response.results).items():
                log_metric(name, value)
        return [result.reward for result in response.results]

    def close(self) -> None:
        """Close the connections of a client that was given; others are the process's."""
        if self._client is not None:
            self._client.close()

    def _scored(self, items: Sequence[ScoreItem], **options: Any) -> ScoreResponse:
        if self._client is None:
            return self._scorer.score(items, **options)
        config = self._scorer.config
        told = {"run": config.run, "mode": config.mode, "lineage": config.lineage} | options
        return self._client.score(config.task, items, **told)

    def _is_cut(self, token_ids: Sequence[int]) -> bool:
        return self._max_tokens is not None and len(token_ids) >= self._max_tokens


def _purpose(log_metric: Callable[[str, float], None] | None) -> Purpose:
    """Whether the trainer that `log_metric` is a method of trains or evaluates."""
    model = getattr(getattr(log_metric, "__self__", None), "model", None)
    return Purpose.EVAL if getattr(model, "training", True) is False else Purpose.TRAIN


def batch_metrics(results: Sequence[ItemResult]) -> dict[str, float]:
    """Means of one batch for a trainer's log: rubric version, criteria, flags, share of items without a reward."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    flags: defaultdict[str, int] = defaultdict(int)
    for result in results:
        for criterion in result.criteria:
            if criterion.score is not None:
                scores[f"regrade/criterion/{criterion.id}"].append(criterion.score)
        for flag in result.flags:
            flags[f"regrade/flag/{flag}"] += 1
    versions = [result.rubric.version for result in results if result.rubric.version is not None]
    unscored = sum(result.reward is None for result in results)
    return {
        **({"regrade/rubric_version": float(max(versions))} if versions else {}),
        **{name: fmean(values) for name, values in scores.items()},
        **{name: count / len(results) for name, count in flags.items()},
        "regrade/unscored_share": unscored / len(results),
    }
