"""What the acceptance criteria see: a candidate and its references, measured on the same anchors."""

from collections.abc import Sequence
from typing import NamedTuple

from regrade.contracts import Rubric
from services.meta_reward.gate.anchor_statistics import AnchorScores, PairedGain

Rewards = list[float | None]

EPSILON = 1e-6
"""Shares and rewards closer than this are equal up to rounding."""


class Measurement(NamedTuple):
    """A rubric's rewards on all anchor cases (None: not scored) and the share of trusted groups with a spread."""

    rubric: Rubric
    rewards: Rewards
    spread: float
    items: int
    """Items sent to the judge."""


class Comparison(NamedTuple):
    """A candidate and its references: the active rubric first, then the best earlier one, if there is one.

    Scores and gains are computed on the cases that all of these rubrics scored.
    """

    candidate: Measurement
    references: Sequence[Measurement]
    scores: AnchorScores
    reference_scores: Sequence[AnchorScores]
    order_gains: Sequence[PairedGain]
    """Gain in net order over each reference."""
    attack_gain: PairedGain
    """Gain in resisted attacks over the active rubric."""
    common_originals: int
    """Originals that all of these rubrics scored."""
    min_originals: int
    margin: float
    """Loss of net order that still counts as non-inferior."""
    is_partial: bool = False
    """Whether the candidate was dropped at an interim analysis, with anchors left unscored on purpose."""
