"""TRL (`GRPOTrainer`, `RLOOTrainer`, `AsyncGRPOTrainer`): a reward function that scores a batch through `/score`.

trainer = GRPOTrainer(model, reward_funcs=RegradeReward("essay_writing", run="run-1"), ...)
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

from regrade.adapters.core import Scorer, log_unscored, rank
from regrade.client import BlockingRewardClient
from regrade.contracts import ItemResult, Purpose, ScoreResponse
from regrade.items import ItemFields

Turns = Sequence[Mapping[str, Any]]


class TrainerState(Protocol):
    """The part of transformers' `TrainerState` that is used."""

    global_step: int


class RegradeReward:
    """A TRL reward function. Pins by (run, step), so all ranks of a step use one rubric.

    Returns one reward in [0, 1] a completion, or None, which TRL leaves out, where it could not be scored. Raises
    `regrade.RegradeError` when the service stays unavailable longer than the client's patience. Logs the rubric's
    version, the mean of each criterion and the share of each flag; `regrade/flag/unpinned` above 0 means that a step
    was scored during a Redis outage. With `on_outage="refuse"` among the `options` the client waits for Redis instead.

    Batches of `trainer.evaluate()` are scored with purpose `eval`, so they are no evidence of what the policy learns.
    TRL does not say what a batch is for: the function looks whether the model of the trainer that owns `log_metric` is
    in training mode, and takes a batch without such a trainer for training. `purpose` among the `options` overrides it.

    `run` names the training run: a new name for each new run, the same name on resume. `rank` keeps the item ids of
    several processes apart (default: the launcher's `RANK`). Completions of `max_tokens` tokens, the trainer's
    `max_completion_length`, are marked as truncated. `AsyncGRPOTrainer` passes no step, so groups are pinned, and
    pickles the function, which `client` does not allow. Other options: see `regrade.adapters.core.ScoringConfig`.
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
        self._scorer = Scorer(task=task, run=run, url=url, key=key, patience_s=patience_s)
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
        reference: Sequence[Any] | None = None,
        scope: Sequence[str | None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score one batch; `reference` and `scope` are columns of the dataset, other columns are ignored."""
        step = trainer_state.global_step if trainer_state is not None and self._scorer.config.run else None
        process = rank() if self._rank is None else self._rank
        items = [
            {
                "id": f"{process}.{index}" if step is not None else None,
                "prompt": prompt,
                "completion": completion,
                "reference": reference[index] if reference is not None else None,
                "scope": scope[index] if scope is not None else None,
                "truncated": self._is_truncated(completion_ids[index]) if completion_ids is not None else False,
            }
            for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        response = self._score(items, {"step": step, "purpose": _purpose(log_metric)} | self._options)
        if log_metric is not None:
            for name, value in batch_metrics(response.results).items():
                log_metric(name, value)
        return [result.reward for result in response.results]

    def close(self) -> None:
        """Close `client`; the process's own client stays open."""
        if self._client is not None:
            self._client.close()

    def _score(self, items: Sequence[ItemFields], options: dict[str, Any]) -> ScoreResponse:
        if self._client is None:
            return self._scorer.score(items, **options).result()
        config = self._scorer.config
        response = self._client.score(config.task, items, **(config.request_fields | options))
        for result in response.results:
            log_unscored(result)
        return response

    def _is_truncated(self, token_ids: Sequence[int]) -> bool:
        return self._max_tokens is not None and len(token_ids) >= self._max_tokens


def _purpose(log_metric: Callable[[str, float], None] | None) -> Purpose:
    """`eval` if the trainer that owns `log_metric` has its model in evaluation mode."""
    model = getattr(getattr(log_metric, "__self__", None), "model", None)
    return Purpose.EVAL if getattr(model, "training", True) is False else Purpose.TRAIN


def batch_metrics(results: Sequence[ItemResult]) -> dict[str, float]:
    """Metrics of a batch: rubric version, means of criteria, shares of flags, share of items without a reward."""
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
