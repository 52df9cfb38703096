"""Hypothesis strategies for valid rubrics, of every kind of criterion."""

from typing import Any

from hypothesis import strategies as st

from regrade.contracts import Role, Rubric

_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
_WEIGHT = st.floats(0.0, 100.0, allow_nan=False, allow_subnormal=False)

_CHECKS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda n: {"check": "min_words", "words": n}, st.integers(1, 20_000)),
    st.builds(lambda n: {"check": "max_words", "words": n}, st.integers(1, 20_000)),
    st.builds(lambda n: {"check": "min_sentences", "sentences": n}, st.integers(1, 1_000)),
    st.just({"check": "language", "language": "en"}),
    st.builds(
        lambda n, share: {"check": "not_repetitive", "ngram": n, "min_distinct": share},
        st.integers(1, 8),
        st.floats(0.01, 1.0),
    ),
    st.builds(lambda share: {"check": "no_prompt_copy", "max_copied": share}, st.floats(0.0, 0.99)),
    st.builds(lambda share: {"check": "on_topic", "min_overlap": share}, st.floats(0.01, 1.0)),
    st.builds(lambda text: {"check": "matches", "pattern": text}, _WORDS),
    st.sampled_from([{"check": "ends_properly"}, {"check": "boxed_answer"}, {"check": "math_equal"}]),
    st.builds(lambda words: {"check": "verdict_equal", "verdicts": words}, st.lists(_WORDS, min_size=2, max_size=4)),
    st.builds(
        lambda schema: {"check": "json_schema", "schema": schema},
        st.dictionaries(_WORDS, st.none() | st.booleans() | st.integers() | _WORDS | st.lists(_WORDS), max_size=3),
    ),
)


@st.composite
def criteria(draw: st.DrawFn, role: Role, number: int) -> dict[str, Any]:
    """One criterion of a role, as JSON."""
    values: dict[str, Any] = {"id": f"c{number}", "name": draw(_WORDS), "role": role.value, "weight": draw(_WEIGHT)}
    if role is Role.VETO:
        values["threshold"] = draw(st.floats(0.01, 1.0))
    if draw(st.booleans()):
        return values | {"kind": "check", "check": draw(_CHECKS)}
    levels = draw(st.lists(_WORDS, min_size=6, max_size=6))
    return values | {"kind": "llm", "description": draw(_WORDS), "levels": levels}


@st.composite
def rubric_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid rubric as JSON, without a digest."""
    roles = [Role.AWARD, *draw(st.lists(st.sampled_from(Role), max_size=5))]
    chosen = [draw(criteria(role, number)) for number, role in enumerate(roles)]
    chosen[0]["weight"] = draw(st.floats(0.01, 100.0))
    award = sum(c["weight"] for c in chosen if c["role"] == Role.AWARD)
    deduct = sum(c["weight"] for c in chosen if c["role"] == Role.DEDUCT)
    for criterion in chosen:
        if criterion["role"] == Role.DEDUCT and deduct > award:
            criterion["weight"] *= 0.99 * award / deduct
    return {"preamble": draw(st.just("") | _WORDS), "criteria": chosen, "offset": draw(st.floats(-0.1, 0.1))}


def rubrics() -> st.SearchStrategy[Rubric]:
    """Valid rubrics."""
    return rubric_documents().map(Rubric.model_validate)
