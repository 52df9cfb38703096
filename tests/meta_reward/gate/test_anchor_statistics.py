"""From rewards on anchors to scores, gains and their bounds."""

from regrade.tasks import load_pack
from regrade.tasks.anchors import build_anchors
from services.meta_reward.gate.anchor_statistics import kendall_tau, paired_gain, score_anchors
from tests.support.builders import TASK


def test_tie_is_no_order_and_unusable_cases_count_for_nobody() -> None:
    anchors = build_anchors(load_pack(TASK), 8)
    start = len(anchors.originals)
    rewards: list[float | None] = [0.5] * len(anchors.cases)
    counts = [True] * len(rewards)
    assert score_anchors(anchors, rewards, counts).mean_order == 0.0
    assert score_anchors(anchors, rewards, counts).mean_resisted == 1.0
    for index in range(start, start + len(anchors.damaged)):
        rewards[index] = 0.481
    assert score_anchors(anchors, rewards, counts).mean_order == 0.0
    for index in range(start, len(rewards)):
        rewards[index] = 0.47 if index < start + len(anchors.damaged) else 0.53
    table = score_anchors(anchors, rewards, counts)
    assert (table.mean_order, table.mean_resisted) == (1.0, 0.0)
    counts[0] = False
    assert set(score_anchors(anchors, rewards, counts).order) == set(table.order) - {0}


def test_gain_is_bounded_by_the_bootstrap() -> None:
    zero = dict.fromkeys(range(20), 0.0)
    assert paired_gain(zero, zero, 0.05) == (0.0, 0.0)
    sure = paired_gain(dict.fromkeys(range(20), 1.0), zero, 0.05)
    assert sure == (1.0, 1.0)
    mixed = paired_gain({n: float(n % 2) for n in range(20)}, {n: float(n % 3 == 0) for n in range(20)}, 0.05)
    assert mixed.lower < 0.0 < mixed.mean
    assert (
        paired_gain({n: float(n % 2) for n in range(20)}, zero, 0.01).lower
        < paired_gain({n: float(n % 2) for n in range(20)}, zero, 0.2).lower
    )


def test_kendall_tau() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall_tau([1], [1]) == 1.0
