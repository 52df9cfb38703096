"""Key names: one hash tag per task, one name per thing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from regrade.contracts.base import NAME_PATTERN
from services.kit.store import keys
from services.kit.store.keys import LineageKey

_NAMES = st.from_regex(NAME_PATTERN.removesuffix("$") + r"\Z") | st.sampled_from(["-", "a", "g", "s1"])
_LINEAGES = st.builds(
    LineageKey, st.just("t"), _NAMES, st.none() | st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
)
_PINS = st.tuples(
    _LINEAGES,
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
    redis_keys = [
        keys.rubric_key("task", "d"),
        keys.active_key(lineage),
        keys.versions_key(lineage),
        keys.gate_passes_key(lineage),
        keys.lineage_events_key(lineage),
        keys.pin_key(lineage, "run", 1, "group"),
        keys.traces_key("task"),
        keys.outcome_prefix("task"),
        keys.judgement_key("task", "i"),
        keys.lease_key(lineage),
        keys.lease_counter_key(lineage),
        keys.cycle_key(lineage),
        keys.reports_key(lineage),
        keys.cycle_request_key(lineage),
        keys.baseline_key(lineage, "run"),
        keys.baseline_key(lineage, None),
        keys.alarms_key(lineage),
        keys.checkpoint_key(lineage),
        keys.cycles_without_activation_key(lineage),
        keys.paused_key(lineage),
        keys.archive_key("task"),
        keys.archive_lease_key("task"),
        keys.archive_lease_counter_key("task"),
    ]
    assert len(set(redis_keys)) == len(redis_keys)
    assert all(re.fullmatch(r"rg:\{task\}:.+", key) for key in redis_keys)


@given(_PINS, _PINS)
def test_i2_two_pins_share_a_key_only_when_they_are_one(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    def meaning(pin: tuple) -> tuple:  # type: ignore[type-arg]
        lineage, run, step, group = pin
        return (lineage, run, ("step", step) if step is not None else ("group", group))

    assert (keys.pin_key(*one) == keys.pin_key(*other)) == (meaning(one) == meaning(other))


def test_i2_names_with_colons_do_not_reach_into_another_pin() -> None:
    by_group = keys.pin_key(LineageKey("t", "main"), "a", None, "foo:s1")
    by_step = keys.pin_key(LineageKey("t", "main", "a"), "gfoo", 1, "")
    assert by_group != by_step
    assert keys.pin_key(LineageKey("t", "main"), None, 1, "g") != keys.pin_key(LineageKey("t", "main"), "-", 1, "g")
