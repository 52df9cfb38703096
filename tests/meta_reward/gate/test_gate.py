"""The gate against scorers that leave out what they please."""

import re
from collections.abc import Callable, Sequence

import pytest

from regrade.contracts import GateReport, Reason, ReasonCode, Rubric, RubricFigures, ScoreItem
from regrade.tasks import load_pack
from regrade.tasks.anchors import build_anchors
from services.meta_reward.gate.gate import Gate, GateLimits
from services.meta_reward.gate.stage import best_measured_digest
from services.meta_reward.types import Candidate
from tests.support.builders import TASK, checks_only, figures, gate_report

ACTIVE, CANDIDATE, EARLIER = (checks_only(n) for n in (1, 2, 3))
ANCHORS = build_anchors(load_pack(TASK), 12)
COUNT = len(ANCHORS.cases)
ORIGINALS = len(ANCHORS.originals)

Scores = Callable[[int], bool]
"""Whether a rubric scores the anchor of that number."""


async def decide(candidate: Scores, active: Scores = lambda _: True, earlier: Scores | None = None) -> GateReport:
    """The gate's report on a candidate that puts every original first, against rubrics to which all is equal."""
    scores = {CANDIDATE.digest: candidate, ACTIVE.digest: active, EARLIER.digest: earlier or (lambda _: True)}

    async def score(task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
        numbers = [int((item.id or "").removeprefix("anchor-")) for item in items]
        good = {n: 0.9 - n / 1_000 if n < ORIGINALS else 0.1 for n in numbers}
        flat = {n: 0.5 + n / 10_000 for n in numbers}
        rewards = good if rubric.digest == CANDIDATE.digest else flat
        return [rewards[n] if scores[rubric.digest](n) else None for n in numbers]

    gate = Gate(score, TASK, ANCHORS, GateLimits(alpha=0.05, margin=0.05), [])
    best_earlier = EARLIER if earlier is not None else None
    (report,) = (await gate.decide("cycle", [Candidate(CANDIDATE, "test")], ACTIVE, best_earlier)).reports
    return report


async def test_a_candidate_that_scores_everything_passes() -> None:
    assert (await decide(lambda _: True, earlier=lambda _: True)).passed


async def test_a_few_anchors_may_stay_unscored() -> None:
    assert (await decide(lambda n: n != COUNT - 1)).passed


async def test_what_the_active_rubric_cannot_score_is_nobodys_fault() -> None:
    assert (await decide(lambda n: n % 4 != 3, active=lambda n: n % 4 != 3)).passed


@pytest.mark.parametrize(
    ("scores", "missed"),
    [
        pytest.param(lambda n: n < COUNT - COUNT // 15, COUNT // 15, id="one in fifteen, seen at the end"),
        pytest.param(lambda n: n < ORIGINALS, None, id="all twins, missing at the first interim analysis"),
        pytest.param(lambda _: False, None, id="everything"),
    ],
)
async def test_a_candidate_that_leaves_out_too_much_is_refused(scores: Scores, missed: int | None) -> None:
    """What it did score it orders perfectly."""
    report = await decide(scores)
    assert not report.passed
    assert re.fullmatch(rf"could not score {missed or '[0-9]+'} of {COUNT} anchors", report.reasons[0].text)


async def test_eight_originals_have_to_be_scored_by_all() -> None:
    """Within the share of anchors that may be missing, yet with too few originals left."""
    report = await decide(lambda n: n != 0, active=lambda n: n >= ORIGINALS or n < 8)
    scored = COUNT - ORIGINALS + 8
    assert report.reasons == (Reason(code=ReasonCode.UNSCORED, text=f"could not score 1 of {scored} anchors"),)


async def test_a_comparison_with_a_rubric_that_left_out_too_much_is_none() -> None:
    report = await decide(lambda _: True, earlier=lambda n: n % 2 == 0)
    assert report.reasons[0].text == f"the best earlier rubric could not score {COUNT // 2} of {COUNT} anchors"


def test_the_best_earlier_rubric_is_known_by_its_fullest_figures() -> None:
    """An interim analysis on a third of the anchors flatters one rubric, belittles the other, and comes last."""
    one, other, never = "1" * 64, "2" * 64, "3" * 64

    def measured(digest: str, order: float, judged: int) -> RubricFigures:
        return figures(digest).model_copy(update={"order": order, "judged": judged})

    def report(candidate: RubricFigures, active: RubricFigures) -> GateReport:
        template = gate_report(candidate.digest, active.digest)
        return template.model_copy(update={"candidate": candidate, "active": active})

    full = report(measured(one, 0.6, 150), measured(other, 0.8, 150))
    interim = report(measured(one, 0.99, 50), measured(other, 0.1, 50))
    assert best_measured_digest([full, interim], {one, other}) == other
    assert best_measured_digest([interim, full], {one, other}) == other
    again = report(measured(one, 0.9, 150), measured(never, 1.0, 150))
    assert best_measured_digest([full, interim, again], {one, other}) == one
    only_looked_at = report(measured(never, 0.99, 50), measured(one, 0.3, 50))
    assert best_measured_digest([full, only_looked_at], {one, other, never}) == other
    seen_as_earlier = full.model_copy(update={"best_earlier": measured(never, 0.95, 150)})
    assert best_measured_digest([seen_as_earlier], {one, other, never}) == never
    assert best_measured_digest([interim], {one, other}) == one
    assert best_measured_digest([full], set()) is None
