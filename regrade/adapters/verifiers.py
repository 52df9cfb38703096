"""verifiers: a group's reward function for environments of 0.1, and a judge of one trace for those of `verifiers.v1`.

rubric = vf.Rubric(funcs=[RegradeReward("essay_writing", run="run-1")])        # 0.1: called once a group
class Regrade(RegradeJudge, vf.Judge): ...                                     # v1
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from regrade.adapters.chat import text_or_conversation
from regrade.adapters.core import Scorer, Unscored, reward_of, scoring_config
from regrade.adapters.results import metrics_of
from regrade.contracts import ScoreItem


class RegradeReward:
    """Its plural arguments tell verifiers to call it once a group. An exception would become 0.0 there: NaN instead.

    When the service stays away longer than `patience_s`, it raises all the same.
    """

    def __init__(self, task: str | None = None, *, unscored: Unscored = "nan", **where: Any) -> None:
        self.__name__ = "regrade"
        self._scorer = Scorer(scoring_config(task=task, **where))
        self._unscored = unscored

    async def __call__(
        self,
        prompts: Sequence[str | Sequence[Mapping[str, Any]]],
        completions: Sequence[str | Sequence[Mapping[str, Any]]],
        answers: Sequence[str | None],
        states: Sequence[Any],
    ) -> list[float]:
        """One reward a rollout; each state keeps its figures as `regrade`."""
        items = [
            ScoreItem(
                prompt=text_or_conversation(prompt),
                completion=text_or_conversation(completion),
                reference=answer or None,
            )
            for prompt, completion, answer in zip(prompts, completions, answers, strict=True)
        ]
        results = (await self._scorer.score_async(items)).results
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
    """`score` for a `verifiers.v1.Judge`. Raises where there is no reward: verifiers leaves such a trace out."""

    where: Mapping[str, Any] = {}
    """Arguments of `core.scoring_config`, for a subclass to set; else the environment."""

    async def score(self, task: _Task, trace: _Trace) -> float:
        """The reward of a trace's last reply. Figures become metrics of the trace."""
        item = ScoreItem(id=str(trace.id), prompt=task.prompt_text, completion=trace.last_reply)
        result = await Scorer(scoring_config(**self.where)).score_one_async(item)
        trace.record_metrics(metrics_of(result))
        return reward_of(result, "error")
