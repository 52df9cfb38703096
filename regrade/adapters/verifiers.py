"""verifiers: a group reward function for environments of version 0.1, and a judge of one trace for `verifiers.v1`.

rubric = vf.Rubric(funcs=[RegradeReward("essay_writing", run="run-1")])        # 0.1: called once a group
class Regrade(RegradeJudge, vf.Judge): ...                                     # v1
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from regrade.adapters.core import Scorer, Unscored, reward_of
from regrade.adapters.results import metrics_of


class RegradeReward:
    """Group reward function; verifiers recognises one by its plural arguments.

    A sample without a reward is NaN, since verifiers makes 0.0 of an exception. Raises only when the service stays
    unavailable for `patience_s`.
    """

    def __init__(self, task: str | None = None, *, unscored: Unscored = "nan", **options: Any) -> None:
        self.__name__ = "regrade"
        self._scorer = Scorer(task=task, **options)
        self._unscored = unscored

    async def __call__(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, Any]]],
        completions: Sequence[str | Sequence[Mapping[str, Any]]],
        answers: Sequence[Any],
        states: Sequence[Any],
    ) -> list[float]:
        """One reward a rollout; each state gets its metrics as `regrade`."""
        items = [
            {"prompt": prompt, "completion": completion, "reference": answer}
            for prompt, completion, answer in zip(prompts, completions, answers, strict=True)
        ]
        results = (await self._scorer.score(items)).results
        for state, result in zip(states, results, strict=True):
            state["regrade"] = metrics_of(result)
        return [reward_of(result, self._unscored) for result in results]


class _Task(Protocol):
    @property
    def prompt_text(self) -> str: ...


class _Trace(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def last_reply(self) -> str: ...

    def record_metrics(self, metrics: Mapping[str, float]) -> None: ...


class RegradeJudge:
    """Mix in before `verifiers.v1.Judge`. Raises where a trace has no reward, and verifiers leaves the trace out."""

    options: Mapping[str, Any] = {}
    """Options of `ScoringConfig` that a subclass sets; the others come from the environment."""

    async def score(self, task: _Task, trace: _Trace) -> float:
        """The reward of the trace's last reply; the metrics are recorded on the trace."""
        item = {"id": str(trace.id), "prompt": task.prompt_text, "completion": trace.last_reply}
        result = await Scorer(**self.options).score_one(item)
        trace.record_metrics(metrics_of(result))
        return reward_of(result, "error")
