"""Calibration: a candidate's offset, such that trusted text keeps its mean reward.

A stricter rubric lowers all rewards at once, which a policy gradient with a fixed scale attributes to the policy (PAR,
arXiv 2502.18770, asks for bounded and centred rewards). The offset is small and part of the digest. It is fitted on
originals that the gate does not measure on, before the gate sees the candidate.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from regrade import RewardClient
from regrade.contracts import Flag, ItemResult, Reason, ReasonCode, Rubric, ScoreItem
from regrade.contracts.rubric import MAX_OFFSET
from services.meta_reward.clients.shadow import shadow_results

_BISECTIONS = 40
"""Halves the interval far below the rounding."""
_DIGITS = 3
"""Rounding keeps noise of the judge out of the digest."""
_MIN_ORIGINALS = 4
_MIN_SCORED_SHARE = 0.75
"""With fewer trusted originals scored, their mean depends on which ones failed."""


class CalibrationResult(NamedTuple):
    """A candidate with its offset, and how that was found; `refusal` is set where there were too few originals."""

    rubric: Rubric
    explanation: str
    refusal: Reason | None = None


class Calibration:
    """Calibrates candidates against one active rubric, which is scored once."""

    def __init__(self, client: RewardClient, task: str, originals: Sequence[tuple[str, str]], batch: int) -> None:
        """`originals` are (prompt, completion) of trusted text that the gate does not measure on."""
        self._client = client
        self._task = task
        self._items = [ScoreItem(id=f"trusted-{n}", prompt=p, completion=c) for n, (p, c) in enumerate(originals)]
        self._batch = batch
        self._active_results: list[ItemResult] | None = None

    async def calibrate(self, candidate: Rubric, active: Rubric) -> CalibrationResult:
        """The candidate with its offset. Raises `ServiceUnavailableError` when the judge is down."""
        if self._active_results is None:
            self._active_results = await self._score(active)
        plain = without_offset(candidate)
        pairs = zip(self._active_results, await self._score(plain), strict=True)
        scored = [(a, b) for a, b in pairs if a.reward is not None and b.reward is not None and b.raw is not None]
        if len(scored) < max(_MIN_ORIGINALS, _MIN_SCORED_SHARE * len(self._items)):
            text = f"not calibrated: {len(scored)} of {len(self._items)} trusted originals scored"
            return CalibrationResult(plain, "", Reason(code=ReasonCode.UNSCORED, text=text))
        target = fmean(before.reward or 0.0 for before, _ in scored)
        raws = [(after.raw or 0.0, Flag.VETOED in after.flags) for _, after in scored]
        offset = offset_for(target, raws)
        explanation = (
            f"offset {offset:+.3f}: trusted originals ({len(scored)}) have mean reward {target:.3f} under the active "
            f"rubric, {mean_reward(raws, 0.0):.3f} under this one without an offset, "
            f"{mean_reward(raws, offset):.3f} with it"
        )
        return CalibrationResult(plain.model_copy(update={"offset": offset}), explanation)

    async def _score(self, rubric: Rubric) -> list[ItemResult]:
        return await shadow_results(self._client, self._task, rubric, self._items, self._batch)


def without_offset(rubric: Rubric) -> Rubric:
    """The same criteria without an offset: identifies a rubric that was rolled back under another offset."""
    return rubric.model_copy(update={"offset": 0.0}) if rubric.offset else rubric


def mean_reward(raws: Sequence[tuple[float, bool]], offset: float) -> float:
    """Mean reward under an offset. `raws` are (raw sum, whether a veto applied)."""
    return fmean(0.0 if vetoed else min(1.0, max(0.0, raw + offset)) for raw, vetoed in raws)


def offset_for(target: float, raws: Sequence[tuple[float, bool]]) -> float:
    """The offset, at most `MAX_OFFSET` in size, whose mean reward is nearest to `target`.

    Found by bisection, since the mean does not fall with the offset.
    """
    low, high = -MAX_OFFSET, MAX_OFFSET
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_reward(raws, middle) < target else (low, middle)
    return round((low + high) / 2, _DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
