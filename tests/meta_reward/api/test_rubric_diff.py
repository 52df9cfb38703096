"""The difference of two rubrics."""

from services.meta_reward.api.rubric_diff import diff_rubrics
from tests.support.builders import check, llm, rubric


def test_diff_names_what_changed() -> None:
    before = rubric(llm("a"), llm("b"))
    after = rubric(llm("a", weight=2.0), check("ends", {"check": "ends_properly"}))
    diff = diff_rubrics(before, after)
    assert (diff.added, diff.removed, diff.changed) == (("ends",), ("b",), ("a",))
    assert "+  check ends_properly()" in diff.text
