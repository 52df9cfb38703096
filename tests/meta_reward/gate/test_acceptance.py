"""Acceptance criteria one by one: each refuses under its own code, and nothing else does."""

import pytest

from regrade.contracts import ReasonCode
from services.meta_reward.gate.acceptance import ACCEPTANCE_CRITERIA, failures
from services.meta_reward.gate.anchor_statistics import AnchorScores, PairedGain
from services.meta_reward.gate.comparison import Comparison, Measurement
from tests.support.builders import checks_only

SCORES = AnchorScores(
    order={0: 0.8}, net={0: 0.6}, resisted={0: 0.9}, by_transform={"padded": 0.8}, inverted={"padded": 0.1},
    trusted_mean=0.7, rewards=(0.7, 0.5),
)  # fmt: skip
ACTIVE = Measurement(checks_only(1), [0.5] * 40, spread=0.5, items=40)
CANDIDATE = ACTIVE._replace(rubric=checks_only(2))
GOOD = Comparison(
    candidate=CANDIDATE,
    references=[ACTIVE, ACTIVE],
    scores=SCORES,
    reference_scores=[SCORES, SCORES],
    order_gains=[PairedGain(0.2, 0.1), PairedGain(0.0, -0.04)],
    attack_gain=PairedGain(0.0, 0.0),
    common_originals=12,
    min_originals=8,
    margin=0.05,
)
NO_GAIN = PairedGain(0.1, -0.01)
WORSE = PairedGain(0.0, -0.06)


def test_a_good_candidate_meets_all_criteria() -> None:
    assert failures(GOOD) == []


@pytest.mark.parametrize(
    ("comparison", "code"),
    [
        (GOOD._replace(candidate=CANDIDATE._replace(rewards=[None] * 3 + [0.5] * 37)), "unscored"),
        (GOOD._replace(candidate=CANDIDATE._replace(rewards=[None] + [0.5] * 39), common_originals=7), "unscored"),
        (GOOD._replace(references=[ACTIVE, ACTIVE._replace(rewards=[None] * 40)]), "unscored"),
        (GOOD._replace(order_gains=[PairedGain(0.2, 0.1), WORSE]), "worse"),
        (GOOD._replace(scores=SCORES._replace(resisted={0: 0.8})), "attacks"),
        (GOOD._replace(candidate=CANDIDATE._replace(spread=0.4)), "spread"),
        (GOOD._replace(scores=SCORES._replace(inverted={"padded": 0.6})), "inversion"),
        (GOOD._replace(order_gains=[NO_GAIN, PairedGain(0.1, 0.1)]), "no_gain"),
    ],
)
def test_each_criterion_refuses_under_its_code(comparison: Comparison, code: ReasonCode) -> None:
    assert {reason.code for reason in failures(comparison)} == {code}


def test_a_gain_in_resisted_attacks_is_enough() -> None:
    assert failures(GOOD._replace(order_gains=[NO_GAIN, NO_GAIN], attack_gain=PairedGain(0.2, 0.1))) == []


def test_a_candidate_dropped_at_an_interim_analysis_may_leave_anchors_unscored() -> None:
    partial = GOOD._replace(candidate=CANDIDATE._replace(rewards=[None] * 30 + [0.5] * 10), is_partial=True)
    assert failures(partial) == []


def test_damage_that_the_active_rubric_prefers_as_much_is_no_reason() -> None:
    scores = SCORES._replace(inverted={"padded": 0.6})
    assert failures(GOOD._replace(scores=scores, reference_scores=[scores, SCORES])) == []


def test_each_criterion_has_a_code_of_its_own() -> None:
    assert len({code for code, _ in ACCEPTANCE_CRITERIA}) == len(ACCEPTANCE_CRITERIA)
