"""Reads the state of a local run while it goes on: the trainer's log and the services' routes."""

from pathlib import Path
from typing import NamedTuple

from regrade import BlockingRewardClient, RegradeError
from regrade.contracts import CycleReport, CycleStatus, EventKind, LineageEvent, RubricDiff
from services.trainer.records import read_log

_CHANGES = (EventKind.ACTIVATED, EventKind.ROLLED_BACK)


class Snapshot(NamedTuple):
    """The state of a run: metrics of each step, the status of the cycle, the lineage so far."""

    steps: list[dict[str, float]]
    status: CycleStatus
    lineage: list[LineageEvent]

    @property
    def active(self) -> LineageEvent | None:
        """The event that activated the active rubric."""
        return next((event for event in reversed(self.lineage) if event.kind in _CHANGES), None)


class RunObserver:
    """Takes snapshots of a run. While a service is unreachable, status and lineage are those of the last snapshot."""

    def __init__(self, task: str, meta_reward_url: str, log: Path) -> None:
        self._task = task
        self._log = log
        self._meta_reward = BlockingRewardClient(meta_reward_url, patience_s=5.0, timeout_s=10.0)
        self._last = Snapshot([], CycleStatus(), [])

    def snapshot(self) -> Snapshot:
        """The current state of the run."""
        try:
            status = self._meta_reward.call("GET", f"/status/{self._task}", CycleStatus)
            lineage = self._meta_reward.call("GET", f"/lineage/{self._task}", list[LineageEvent])
        except RegradeError:
            status, lineage = self._last.status, self._last.lineage
        self._last = Snapshot(read_log(self._log), status, lineage)
        return self._last

    def cycles(self) -> list[CycleReport]:
        """All finished cycles."""
        return self._meta_reward.call("GET", f"/cycles/{self._task}", list[CycleReport])

    def diff(self, before: str, after: str) -> RubricDiff:
        """The difference between two rubrics, by digest."""
        params = {"before": before, "after": after}
        return self._meta_reward.call("GET", f"/rubrics/{self._task}/diff", RubricDiff, params=params)

    def close(self) -> None:
        """Close the connections."""
        self._meta_reward.close()
