"""What the console says: alarms in every state, changes of rubrics in one line, statuses, titles of figures."""

import time

import pytest

from regrade.contracts import Alarm, EventKind, Flag, LineageEvent
from services.meta_reward.console import descriptions, timeline
from services.meta_reward.console.plots import SMALL, Point, plot
from services.meta_reward.console.rubric_compare import change_summary
from services.meta_reward.evidence.alarms import DECREASE_RULES, INCREASE_RULES
from services.meta_reward.evidence.text_features import extract_features
from tests.support.builders import checks_only, rubric, trace


def _alarm(figure: float, name: str = "reward_follows_words", since: str = "1700000000000-0") -> Alarm:
    return Alarm(name=name, figure=figure, threshold=0.7, lowered_at=0.5, since=since, traces=())


def test_an_alarm_that_stays_raised_below_its_threshold_does_not_claim_to_be_above_it() -> None:
    assert descriptions.alarm_state(_alarm(0.8)) == "0.80, above the threshold of 0.70"
    state = descriptions.alarm_state(_alarm(0.57))
    assert "0.57, below the threshold of 0.70" in state
    assert "clears below 0.50" in state


@pytest.mark.parametrize("last", [1, 2, 3, 7, 50, 1000])
def test_steps_on_an_axis_are_whole(last: int) -> None:
    drawn = plot([Point(x=step, y=0.5, low=0.4, high=0.6, version="v1", note="") for step in (0, last)], SMALL)
    assert drawn is not None
    labels = [tick.label for tick in drawn.x_ticks]
    assert all(label.isdecimal() for label in labels), labels
    assert len(set(labels)) == len(labels) >= 2


def test_an_alarm_tells_when_it_was_raised() -> None:
    assert descriptions.raised_at(_alarm(0.8, since=f"{int(time.time() * 1000)}-3")) == pytest.approx(
        time.time(), abs=60
    )


def test_every_feature_and_every_alarm_has_words_of_its_own() -> None:
    features = extract_features([trace()])[0].values
    assert features.keys() <= descriptions.FEATURES.keys()
    names = [f"{name}_fell" for name in DECREASE_RULES] + [f"{name}_rose" for name in INCREASE_RULES]
    names += ["reward_saturated", "reward_floored", "groups_without_spread", "audit_contradicts"]
    names += [f"reward_follows_{name}" for name in features] + [f"flag_{flag}_rose" for flag in Flag]
    for name in names:
        assert "_" not in descriptions.alarm_title(name), name
        assert descriptions.alarm_advice(_alarm(1.0, name)) != descriptions.alarm_advice(_alarm(1.0, "of a plug-in"))


def test_a_change_is_summed_up_by_names() -> None:
    before = rubric()
    assert change_summary(before, before) == "the same criteria"
    added = before.model_copy(update={"criteria": (*before.criteria, *checks_only(31).criteria)})
    assert change_summary(before, added).startswith("adds ")
    assert "(check)" in change_summary(before, added)
    assert change_summary(added, before).startswith("drops ")
    louder = before.criteria[0].model_copy(update={"weight": 9.0})
    changed = before.model_copy(update={"criteria": (louder, *before.criteria[1:]), "preamble": "Another."})
    assert change_summary(before, changed) == f"changes {louder.name}; another preamble"


def test_a_version_that_was_rolled_back_says_so() -> None:
    digests = ["a" * 64, "b" * 64]
    kinds = [(digests[0], 1), (digests[1], 2)]
    events = [
        LineageEvent(
            id=f"{n}-0", time=0.0, kind=EventKind.ACTIVATED, digest=digest, version=version, by="gate", reason=""
        )
        for n, (digest, version) in enumerate(kinds)
    ]
    statuses = timeline.rubric_statuses(events, digests[0], {digests[1]: "worse"})
    assert {status.digest: status.status for status in statuses} == {digests[0]: "active", digests[1]: "rolled_back"}
