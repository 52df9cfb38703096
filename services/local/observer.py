"""What the local stack knows of a run while it goes on: the trainer's log and the services' answers."""

from pathlib import Path
from typing import NamedTuple

from regrade import BlockingRewardClient, RegradeError
from regrade.contracts import CycleReport, CycleStatus, EventKind, LineageEvent, Rubric, RubricDiff
from services.trainer.records import read_log

_CHANGES = (EventKind.ACTIVATED, EventKind.ROLLED_BACK)


class Snapshot(NamedTuple):
    """One look at a run: a row of figures per step, the cycle under way, and the lineage so far."""

    steps: list[dict[str, float]]
    status: CycleStatus
    lineage: list[LineageEvent]

    @property
    def active(self) -> LineageEvent | None:
        """The event that made the present rubric active."""
        return next((event for event in reversed(self.lineage) if event.kind in _CHANGES), None)


class Observer:
    """Looks at a run. A look while a service is busy or away shows what the last one showed."""

    def __init__(self, task: str, meta_reward_url: str, reward_url: str, log: Path) -> None:
        self._task = task
        self._log = log
        self._meta = BlockingRewardClient(meta_reward_url, patience_s=5.0, timeout_s=10.0)
        self._reward = BlockingRewardClient(reward_url, patience_s=5.0, timeout_s=10.0)
        self._last = Snapshot([], CycleStatus(), [])

    def look(self) -> Snapshot:
        """The run as it stands."""
        try:
            status = self._meta.call("GET", f"/status/{self._task}", CycleStatus)
            lineage = self._meta.call("GET", f"/lineage/{self._task}", list[LineageEvent])
        except RegradeError:
            status, lineage = self._last.status, self._last.lineage
        self._last = Snapshot(read_log(self._log), status, lineage)
        return self._last

    def cycles(self) -> list[CycleReport]:
        """Every finished cycle."""
        return self._meta.call("GET", f"/cycles/{self._task}", list[CycleReport])

    def rubric(self, digest: str) -> Rubric:
        """A rubric, active or proposed."""
        return self._reward.rubric(self._task, digest=digest)

    def diff(self, before: str, after: str) -> RubricDiff:
        """What changed between two digests."""
        params = {"before": before, "after": after}
        return self._meta.call("GET", f"/rubrics/{self._task}/diff", RubricDiff, params=params)

    def close(self) -> None:
        """Close the connections."""
        self._meta.close()
        self._reward.close()
