"""Calibration: a candidate's offset, so that trusted text is paid on average what it was paid before.

A stricter rubric lowers all rewards at once, and a policy gradient with a fixed scale takes that for its own doing
(PAR, arXiv 2502.18770, wants rewards bounded and centred). The offset is small, part of the digest, and fixed on
originals that the gate does not measure on, before it sees the candidate.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from regrade import RewardClient
from regrade.contracts import Flag, ItemResult, Rubric, ScoreItem
from regrade.contracts.rubric import MAX_OFFSET
from services.meta_reward.clients.shadow import reward_of

_STEPS = 40
_DIGITS = 3
_FEWEST = 4
_SCORED_SHARE = 0.75


class CalibrationResult(NamedTuple):
    """A candidate with its offset, and what that rests on. `refused` says why there is none."""

    rubric: Rubric
    told: str
    refused: str = ""


class Calibration:
    """Measures candidates on trusted originals, against one active rubric that is scored once."""

    def __init__(self, client: RewardClient, task: str, originals: Sequence[tuple[str, str]], batch: int) -> None:
        """`originals` are (prompt, completion) of trusted text that the gate does not measure on."""
        self._client = client
        self._task = task
        self._items = [ScoreItem(id=f"trusted-{n}", prompt=p, completion=c) for n, (p, c) in enumerate(originals)]
        self._batch = batch
        self._before: list[ItemResult] | None = None

    async def of(self, candidate: Rubric, active: Rubric) -> CalibrationResult:
        """The candidate, calibrated. Raises `ServiceUnavailableError` when the judge stays away."""
        if self._before is None:
            self._before = await self._scored(active)
        plain = without_offset(candidate)
        both = zip(self._before, await self._scored(plain), strict=True)
        known = [(a, b) for a, b in both if a.reward is not None and b.reward is not None and b.raw is not None]
        if len(known) < max(_FEWEST, _SCORED_SHARE * len(self._items)):
            return CalibrationResult(
                plain, "", f"not calibrated: {len(known)} of {len(self._items)} trusted originals scored"
            )
        target = fmean(before.reward or 0.0 for before, _ in known)
        raws = [(after.raw or 0.0, Flag.VETOED in after.flags) for _, after in known]
        offset = offset_for(target, raws)
        told = (
            f"offset {offset:+.3f}: trusted originals ({len(known)}) are paid {target:.3f} by the active rubric, "
            f"{mean_reward(raws, 0.0):.3f} by this one without an offset, {mean_reward(raws, offset):.3f} with it"
        )
        return CalibrationResult(plain.model_copy(update={"offset": offset}), told)

    async def _scored(self, rubric: Rubric) -> list[ItemResult]:
        results: list[ItemResult] = []
        for start in range(0, len(self._items), self._batch):
            response = await self._client.shadow(self._task, rubric, self._items[start : start + self._batch])
            results.extend(response.results)
        for result in results:
            reward_of(result)
        return results


def without_offset(rubric: Rubric) -> Rubric:
    """The same criteria without an offset: by it one knows again what was rolled back."""
    return rubric.model_copy(update={"offset": 0.0}) if rubric.offset else rubric


def mean_reward(raws: Sequence[tuple[float, bool]], offset: float) -> float:
    """The mean reward of items by their raw sums, and whether a veto fired, under an offset."""
    return fmean(0.0 if vetoed else min(1.0, max(0.0, raw + offset)) for raw, vetoed in raws)


def offset_for(target: float, raws: Sequence[tuple[float, bool]]) -> float:
    """The offset of at most `MAX_OFFSET` under which the mean reward is `target`, or nearest to it.

    The mean grows with the offset, so the interval is halved; rounded, so that the digest does not hang on noise.
    """
    low, high = -MAX_OFFSET, MAX_OFFSET
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_reward(raws, middle) < target else (low, middle)
    return round((low + high) / 2, _DIGITS) + 0.0
