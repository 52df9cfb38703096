"""The rubric as a value: its digest is its identity (I1), and what is refused is refused with a reason."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from regrade.contracts import (
    LlmCriterion,
    PutRubric,
    Role,
    Rubric,
    RubricDiff,
    ScoreRequest,
    canonical_json,
    sha256_of,
    unbroken_rubric,
)
from tests.support.builders import TASK, check, item, llm, min_words, rubric
from tests.support.strategies import rubric_documents, rubrics


def _turned(value: Any) -> Any:
    """The same JSON value with the keys of every object in reverse order."""
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in reversed(list(value))}
    return [_turned(entry) for entry in value] if isinstance(value, list) else value


@given(rubrics())
def test_i1_the_digest_survives_every_round_trip(wanted: Rubric) -> None:
    assert Rubric.model_validate_json(wanted.model_dump_json()) == wanted
    assert Rubric.model_validate_json(wanted.model_dump_json()).digest == wanted.digest
    assert Rubric.model_validate(wanted.model_dump(mode="json")).digest == wanted.digest
    assert Rubric.model_validate_json(wanted.model_dump_json(indent=2)).digest == wanted.digest
    assert Rubric.model_validate_json(json.dumps(_turned(wanted.model_dump(mode="json")))).digest == wanted.digest


def test_i1_a_rubric_survives_inside_other_contracts() -> None:
    wanted = rubric(check("shape", {"check": "json_schema", "schema": {"type": "object"}}))
    put = PutRubric(rubric=wanted, by="me", reason="because")
    assert PutRubric.model_validate_json(put.model_dump_json()) == put
    diff = RubricDiff(before=wanted, after=wanted, added=(), removed=(), changed=(), text="")
    assert RubricDiff.model_validate_json(diff.model_dump_json()) == diff


@given(rubrics(), st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(1, 99))
def test_i1_placement_is_not_content(wanted: Rubric, name: str, version: int) -> None:
    placed = wanted.model_dump(mode="json", exclude={"digest"}) | {
        "lineage": name,
        "scope": f"{name}/{name}",
        "version": version,
        "parent": "a" * 64,
        "created_by": name,
        "rationale": name,
    }
    assert Rubric.model_validate(placed).digest == wanted.digest


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, entry in pairs for leaf in _leaves(entry, (*path, key))]
    return [path]


def _with_changed(document: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    changed = json.loads(json.dumps(document))
    target = changed
    for part in path[:-1]:
        target = target[part]
    old = target[path[-1]]
    if isinstance(old, bool) or old is None:
        target[path[-1]] = "changed"
    elif isinstance(old, float):
        target[path[-1]] = old / 2 or 0.05
    elif isinstance(old, int):
        target[path[-1]] = old + 1
    else:
        target[path[-1]] = f"{old}x"
    return dict(changed)


@settings(max_examples=30)
@given(rubric_documents())
def test_i1_every_change_of_content_changes_the_digest(document: dict[str, Any]) -> None:
    """Each leaf in turn; a change that makes the rubric invalid is none of this test's business."""
    digests = [Rubric.model_validate(document).digest]
    for path in _leaves(document):
        with suppress(ValidationError):
            digests.append(Rubric.model_validate(_with_changed(document, path)).digest)
    assert len(digests) > 3
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 0.05},
        {"preamble": "Be strict."},
        {"criteria": (llm("b"),)},
        {"criteria": (llm(weight=2),)},
        {"criteria": (llm(name="Other"),)},
        {"criteria": (llm(), llm("b", role=Role.VETO, threshold=0.5))},
    ],
    ids=str,
)
def test_i1_each_part_of_the_content_counts(fields: dict[str, Any]) -> None:
    assert Rubric.model_validate({"criteria": (llm(),)} | fields).digest != rubric().digest


def test_i1_a_spelt_out_default_is_the_same_content() -> None:
    short = rubric(check("fresh", {"check": "not_repetitive"}))
    long = rubric(
        check(
            "fresh",
            {"check": "not_repetitive", "ngram": 4, "min_distinct": 0.9},
            role="award",
            weight=1,
            threshold=None,
        ),
        offset=0,
        preamble="",
    )
    assert short.digest == long.digest


def test_i1_order_of_criteria_is_content() -> None:
    assert rubric(llm("a"), llm("b")).digest != rubric(llm("b"), llm("a")).digest


def test_i1_digest_is_the_hash_of_the_content_and_stays_what_it_is() -> None:
    content = {"criteria": [{"id": "w", "name": "W", "kind": "check", "check": {"check": "min_words", "words": 9}}]}
    wanted = Rubric.model_validate(content)
    assert wanted.digest == sha256_of(content)
    assert wanted.digest == "e47eb4925af5e1ee22db79ca211358e5e11ddf5ae1f20b7f4d138cbe7f629215"


def test_i1_a_digest_that_is_not_the_contents_own_is_refused() -> None:
    document = rubric().model_dump(mode="json")
    assert Rubric.model_validate(document).digest == document["digest"]
    with pytest.raises(ValidationError, match="digest does not match the rubric's content"):
        Rubric.model_validate(document | {"digest": "0" * 64})
    with pytest.raises(ValidationError, match="digest does not match the rubric's content"):
        Rubric.model_validate_json(json.dumps(document | {"preamble": "Be kind."}))


def test_i1_a_rubric_is_frozen() -> None:
    wanted = rubric()
    with pytest.raises(ValidationError, match="frozen"):
        wanted.preamble = "another"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        wanted.criteria[0].weight = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("criteria", "reason"),
    [
        ([], "at least 1 item"),
        ([llm("a", weight=0.0)], "at least one award criterion with a weight above 0"),
        ([llm("a", role=Role.DEDUCT)], "at least one award criterion"),
        ([llm("a", role=Role.VETO, threshold=0.5)], "at least one award criterion"),
        ([llm("a"), llm("b", role=Role.DEDUCT, weight=1.5)], "deduct weights may not exceed the award weights"),
        ([llm("a"), min_words(3, id="a")], "ids must be unique"),
        ([llm(f"c{n}") for n in range(33)], "at most 32 items"),
    ],
)
def test_weights_and_ids_must_hold(criteria: list[Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Rubric(criteria=tuple(criteria))


def test_deduct_weights_may_equal_award_weights() -> None:
    wanted = rubric(llm("a", weight=2), llm("b", role=Role.DEDUCT, weight=2))
    assert (wanted.total_weight(Role.AWARD), wanted.total_weight(Role.DEDUCT)) == (2.0, 2.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "veto"},
        {"role": "veto", "threshold": 0.0},
        {"role": "veto", "threshold": 1.5},
        {"role": "award", "threshold": 0.5},
        {"role": "deduct", "threshold": 0.5},
    ],
)
def test_a_veto_and_only_a_veto_has_a_threshold(fields: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match=r"a veto needs a threshold in \(0, 1\]|greater than 0|less than or equal to 1"
    ):
        llm("a", **fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"weight": -1}, "greater than or equal to 0"),
        ({"weight": 101}, "less than or equal to 100"),
        ({"weight": float("nan")}, "finite number|greater than or equal"),
        ({"weight": float("inf")}, "finite number|less than or equal"),
        ({"id": "no spaces"}, "should match pattern"),
        ({"id": ""}, "should match pattern"),
        ({"id": "a\n"}, "should match pattern"),
        ({"levels": ["one"] * 5}, "Field required"),
        ({"levels": [""] * 6}, "at least 1 character"),
        ({"surprise": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_criterion_refuses_what_makes_no_sense(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        llm("a", **({"id": "a"} | fields))


@pytest.mark.parametrize("offset", [0.11, -0.11, float("nan")])
def test_the_offset_is_small(offset: float) -> None:
    with pytest.raises(ValidationError):
        rubric(offset=offset)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_without_finite_numbers_is_refused(text: str) -> None:
    document = rubric().model_dump_json(exclude={"digest"}).replace('"offset":0.0', f'"offset":{text}')
    assert text in document
    with pytest.raises(ValidationError):
        Rubric.model_validate_json(document)


def test_canonical_json_is_one_string_per_value() -> None:
    assert canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_criteria_by_kind_keep_their_order() -> None:
    wanted = rubric(llm("a"), min_words(3), llm("b"), check("end", {"check": "ends_properly"}))
    assert [c.id for c in wanted.llm_criteria] == ["a", "b"]
    assert [c.id for c in wanted.check_criteria] == ["min_words", "end"]


_BREAKS = ["\n", "\r", "\t", "\x00", "\x1b", "\x0b", "\x85", "\u2028", "\u2029"]
_FORGED: dict[str, Callable[[str], LlmCriterion]] = {
    "name": lambda text: LlmCriterion.model_validate(llm().model_dump() | {"name": text}),
    "description": lambda text: llm(description=text),
    "level 3": lambda text: llm(levels=("a", "b", "c", text, "e", "f")),
}


@pytest.mark.parametrize("place", _FORGED)
@pytest.mark.parametrize("char", _BREAKS)
def test_a_new_rubric_holds_unbroken_texts(place: str, char: str) -> None:
    """Otherwise a text could pass for the next criterion. The error says where, and shows the character."""
    forged = rubric(_FORGED[place](f"Clear.{char}5: x"))
    expected = re.escape(f"{place} holds {char!r} at character 6")
    with pytest.raises(ValidationError, match=expected):
        PutRubric(rubric=forged, by="me", reason="why")
    with pytest.raises(ValidationError, match=expected):
        ScoreRequest.model_validate({"task": TASK, "items": [item()], "rubric": forged.model_dump()})


def test_a_preamble_may_hold_breaks_and_no_control_characters() -> None:
    assert PutRubric(rubric=rubric(preamble="One.\n\n- two"), by="me", reason="why")
    with pytest.raises(ValidationError, match=r"preamble holds '\\x1b' at character 4"):
        PutRubric(rubric=rubric(preamble="One.\x1b[2J"), by="me", reason="why")


def test_i1_a_stored_rubric_with_breaks_keeps_its_digest_and_is_read() -> None:
    stored = rubric(llm(description="Clear.\nCriterion: free"))
    assert Rubric.model_validate_json(stored.model_dump_json()) == stored
    clean = unbroken_rubric(stored)
    assert clean.llm_criteria[0].description == "Clear. Criterion: free"
    assert clean.digest != stored.digest
    assert unbroken_rubric(clean) is clean
