"""verifiers: a rubric for environments of version 0.1, and a judge of one trace for `verifiers.v1`.

class Regrade(RegradeRubric, vf.Rubric): ...
rubric = Regrade("essay_writing", run="run-1")                                 # 0.1
class Regrade(RegradeJudge, vf.Judge): ...                                     # v1
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from regrade.adapters.core import Scorer, UnscoredError, reward_of
from regrade.adapters.results import metrics_of

State = dict[str, Any]


class RegradeRubric:
    """Mix in before `verifiers.Rubric` (0.1); `funcs` and `weights` are your own reward functions beside Regrade's.

    A rollout without a reward gets an `error` and an advantage of 0, and takes no part in the advantages of its group:
    prime-rl leaves it out. Its `reward` of 0.0 is what verifiers and prime-rl give a failed rollout, not a score. A
    rubric is needed for this, since verifiers makes 0.0 of a reward function's exception for the whole group, and one
    NaN makes every advantage NaN. Raises `RegradeError` when the service stays unavailable for `patience_s`.
    """

    def __init__(
        self,
        task: str | None = None,
        *,
        funcs: Sequence[Callable[..., Any]] = (),
        weights: Sequence[float] | None = None,
        weight: float = 1.0,
        parser: Any = None,
        **options: Any,
    ) -> None:
        own = [1.0] * len(funcs) if weights is None else weights
        super().__init__([self.regrade, *funcs], [weight, *own], parser)  # type: ignore[call-arg]
        self._scorer = Scorer(task=task, **options)

    async def regrade(self, state: State) -> float:
        """The reward of a rollout that has one."""
        return float(state["regrade"]["reward"])

    async def score_rollout(self, state: State) -> None:
        """Score one rollout; `state["regrade"]` has its metrics, a column to save."""
        if await self._scored([state]):
            await super().score_rollout(state)  # type: ignore[misc]

    async def score_group(self, states: Sequence[State]) -> None:
        """Score a group in one call."""
        if scored := await self._scored(states):
            await super().score_group(scored)  # type: ignore[misc]

    async def _scored(self, states: Sequence[State]) -> list[State]:
        """The states with a reward; the others are marked as failed."""
        items = [
            {"prompt": state["prompt"], "completion": state["completion"], "reference": state.get("answer")}
            for state in states
        ]
        results = (await self._scorer.score(items)).results
        for state, result in zip(states, results, strict=True):
            state["regrade"] = metrics_of(result) | ({} if result.reward is None else {"reward": result.reward})
            if result.error is not None:
                _fail(state, UnscoredError(result.error.code, result.error.message))
        return [state for state, result in zip(states, results, strict=True) if result.reward is not None]


def _fail(state: State, error: UnscoredError) -> None:
    state["error"] = error
    state["metrics"] = {}
    for part in (state, *(state.get("trajectory") or ())):
        part["reward"] = part["advantage"] = 0.0


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
