"""Key names: one hash tag per task, one name per thing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from regrade.contracts.base import NAME_PATTERN
from services.kit.store import keys as ks
from services.kit.store.keys import LineageKey

_NAMES = st.from_regex(NAME_PATTERN.removesuffix("$") + r"\Z") | st.sampled_from(["-", "a", "g", "s1"])
_LINES = st.builds(LineageKey, st.just("t"), _NAMES, st.none() | st.lists(_NAMES, min_size=1, max_size=3).map("/".join))
_PINS = st.tuples(
    _LINES,
    st.none() | _NAMES,
    st.none() | st.integers(0, 9),
    st.text(min_size=1, max_size=6) | st.sampled_from(["g", "g:s1", "-:s1", "1"]),
)


def test_a_scope_falls_back_to_wider_ones_and_to_the_task() -> None:
    assert [lineage.scope for lineage in LineageKey("t", "main", "a/b/c").fallbacks()] == ["a/b/c", "a/b", "a", None]
    assert LineageKey("t", "main").fallbacks() == (LineageKey("t", "main"),)
    assert {lineage.name for lineage in LineageKey("t", "own", "a/b").fallbacks()} == {"own"}


def test_labels_read_back() -> None:
    assert LineageKey("t", "main").label == "main"
    assert LineageKey("t", "main", "a/b").label == "main:a/b"


def test_all_keys_of_a_task_share_its_hash_tag() -> None:
    lineage = LineageKey("task", "main", "a")
    keys = [
        ks.rubric_key("task", "d"),
        ks.active_key(lineage),
        ks.versions_key(lineage),
        ks.passed_key(lineage),
        ks.lineage_events_key(lineage),
        ks.pin_key(lineage, "run", 1, "group"),
        ks.traces_key("task"),
        ks.outcome_prefix("task"),
        ks.judgement_key("task", "i"),
        ks.lease_key(lineage),
        ks.fence_counter_key(lineage),
        ks.cycle_key(lineage),
        ks.reports_key(lineage),
        ks.request_key(lineage),
        ks.baseline_key(lineage, "run"),
        ks.baseline_key(lineage, None),
        ks.alarms_key(lineage),
        ks.checkpoint_key(lineage),
        ks.cycles_without_activation_key(lineage),
        ks.paused_key(lineage),
        ks.archive_key("task"),
        ks.archive_lease_key("task"),
        ks.archive_fence_counter_key("task"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"rg:\{task\}:.+", key) for key in keys)


@given(_PINS, _PINS)
def test_i2_two_pins_share_a_key_only_when_they_are_one(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    def meaning(pin: tuple) -> tuple:  # type: ignore[type-arg]
        lineage, run, step, group = pin
        return (lineage, run, ("step", step) if step is not None else ("group", group))

    assert (ks.pin_key(*one) == ks.pin_key(*other)) == (meaning(one) == meaning(other))


def test_i2_names_with_colons_do_not_reach_into_another_pin() -> None:
    by_group = ks.pin_key(LineageKey("t", "main"), "a", None, "foo:s1")
    by_step = ks.pin_key(LineageKey("t", "main", "a"), "gfoo", 1, "")
    assert by_group != by_step
    assert ks.pin_key(LineageKey("t", "main"), None, 1, "g") != ks.pin_key(LineageKey("t", "main"), "-", 1, "g")
