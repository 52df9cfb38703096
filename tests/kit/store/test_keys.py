"""Key names: one hash tag per task, one name per thing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from regrade.contracts.base import NAME_PATTERN
from services.kit.store import keys as ks
from services.kit.store.keys import Line

_NAMES = st.from_regex(NAME_PATTERN.removesuffix("$") + r"\Z") | st.sampled_from(["-", "a", "g", "s1"])
_LINES = st.builds(Line, st.just("t"), _NAMES, st.none() | st.lists(_NAMES, min_size=1, max_size=3).map("/".join))
_PINS = st.tuples(
    _LINES,
    st.none() | _NAMES,
    st.none() | st.integers(0, 9),
    st.text(min_size=1, max_size=6) | st.sampled_from(["g", "g:s1", "-:s1", "1"]),
)


def test_a_scope_falls_back_to_wider_ones_and_to_the_task() -> None:
    assert [line.scope for line in Line("t", "main", "a/b/c").fallbacks()] == ["a/b/c", "a/b", "a", None]
    assert Line("t", "main").fallbacks() == (Line("t", "main"),)
    assert {line.lineage for line in Line("t", "own", "a/b").fallbacks()} == {"own"}


def test_labels_read_back() -> None:
    assert Line("t", "main").label == "main"
    assert Line("t", "main", "a/b").label == "main:a/b"


def test_all_keys_of_a_task_share_its_hash_tag() -> None:
    line = Line("task", "main", "a")
    keys = [
        ks.rubric_key("task", "d"),
        ks.active_key(line),
        ks.versions_key(line),
        ks.passed_key(line),
        ks.lineage_key(line),
        ks.pin_key(line, "run", 1, "group"),
        ks.traces_key("task"),
        ks.outcome_prefix("task"),
        ks.judgement_key("task", "i"),
        ks.lease_key(line),
        ks.fence_counter_key(line),
        ks.cycle_key(line),
        ks.reports_key(line),
        ks.request_key(line),
        ks.baseline_key(line, "run"),
        ks.baseline_key(line, None),
        ks.alarms_key(line),
        ks.checkpoint_key(line),
        ks.fruitless_key(line),
        ks.paused_key(line),
        ks.archive_key("task"),
        ks.archive_lease_key("task"),
        ks.archive_fence_counter_key("task"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"rg:\{task\}:.+", key) for key in keys)


@given(_PINS, _PINS)
def test_i2_two_pins_share_a_key_only_when_they_are_one(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    def meaning(pin: tuple) -> tuple:  # type: ignore[type-arg]
        line, run, step, group = pin
        return (line, run, ("step", step) if step is not None else ("group", group))

    assert (ks.pin_key(*one) == ks.pin_key(*other)) == (meaning(one) == meaning(other))


def test_i2_names_with_colons_do_not_reach_into_another_pin() -> None:
    by_group = ks.pin_key(Line("t", "main"), "a", None, "foo:s1")
    by_step = ks.pin_key(Line("t", "main", "a"), "gfoo", 1, "")
    assert by_group != by_step
    assert ks.pin_key(Line("t", "main"), None, 1, "g") != ks.pin_key(Line("t", "main"), "-", 1, "g")
