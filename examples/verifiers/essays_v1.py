"""A verifiers.v1 task with rewards from Regrade."""

from typing import Any

from verifiers import v1 as vf
from verifiers.v1.judge import Judge

from regrade.adapters.verifiers import RegradeJudge


class Regrade(RegradeJudge, Judge[None]):
    """Configured by REGRADE_TASK, REGRADE_RUN, REGRADE_URL."""


class Essay(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):
    """An essay."""

    @vf.reward
    async def regrade(self, trace: Any) -> float:
        """The judge's reward of the last reply."""
        return await Regrade().score(self.data, trace)
