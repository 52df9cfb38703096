"""The arithmetic of `bench-engine`: prefix trees, ratios by round, headline figures; and its essays."""

import pytest

from benchmarks.engine.report import ContenderResult, RoundResult, headlines
from tests.support.essays import essay_groups, rubric
from tests.support.prefix_tree import distinct_tokens


@pytest.mark.parametrize(
    ("prompts", "distinct"),
    [
        ([], 0),
        ([[1, 2, 3]], 3),
        ([[1, 2, 3], [1, 2, 3]], 3),
        ([[1, 2, 3], [9], [1, 2, 4, 5], [1]], 6),
    ],
)
def test_a_common_prefix_counts_once(prompts: list[list[int]], distinct: int) -> None:
    assert distinct_tokens(prompts) == distinct
    assert distinct_tokens(reversed(prompts)) == distinct


def test_ratios_are_taken_round_by_round() -> None:
    """A round that is twice as slow for all does not change the ratio."""
    regrade = ContenderResult("regrade", 1, [_sample(wall_s=1.0), _sample(wall_s=2.0), _sample(wall_s=1.0)])
    paper = ContenderResult("paper", None, [_sample(wall_s=8.0), _sample(wall_s=16.0), _sample(wall_s=9.0)])
    limit = ContenderResult("limit", None, [_sample(computed=500.0), _sample(computed=250.0), _sample(computed=500.0)])
    figures = headlines(regrade, paper, limit)
    assert figures["regrade_over_paper"] == pytest.approx(8.0)
    assert figures["prefill_efficiency"] == pytest.approx(0.9)
    assert figures["share_of_prefill_limit"] == pytest.approx(0.8)


def test_essays_differ_between_seeds_and_in_their_openings_within_a_group() -> None:
    one, other = [essay_groups(seed, 2) for seed in ("a", "b")]
    assert essay_groups("a", 2) == one
    texts = [text for group in (*one, *other) for text in group.completions]
    assert len(set(texts)) == len(texts) == 32
    assert all(200 <= len(text.split()) <= 450 for text in texts)
    assert all(len({text[:40] for text in group.completions}) == 8 for group in one)
    assert [len(rubric(count).llm_criteria) for count in (1, 5)] == [1, 5]


def _sample(*, wall_s: float = 1.0, computed: float = 400.0) -> RoundResult:
    return RoundResult(
        items=8, failed=0, wall_s=wall_s, prompt=900.0, computed=computed, generated=40.0, distinct=int(0.9 * computed)
    )
