"""Early looks see a share of every source of anchors and of every family of attacks. Pure but for a scorer."""

from collections.abc import Sequence
from itertools import chain

import pytest

from regrade.contracts import LabelledPair, Rubric, ScoreItem
from regrade.tasks import load_pack
from regrade.tasks.anchors import LABELLED, AnchorSet, build_anchors
from regrade.tasks.pack import Original
from services.meta_reward.gate.gate import Gate, GateLimits
from services.meta_reward.gate.interim import interim_order, interleave
from services.meta_reward.types import Candidate
from tests.support.builders import ESSAY, TASK, checks_only

PACK = load_pack(TASK)
PAIRS = [LabelledPair(prompt=f"Question {n}?", better=f"Answer {n}, and why.", worse=f"Answer {n}") for n in range(66)]
EARLY_COMPLETIONS = [Original(id=f"e{n}", prompt=f"Early {n}?", completion=f"{ESSAY} Number {n}.") for n in range(12)]
ANCHORS = build_anchors(PACK, 24, PAIRS, EARLY_COMPLETIONS)
FAMILIES = {attack.family for attack in PACK.attacks}


def sources(anchors: AnchorSet) -> list[set[int]]:
    """Originals of the pack, of labelled pairs, early ones."""
    labelled = {case.original for case in anchors.damaged if case.kind == LABELLED}
    everything = set(range(len(anchors.originals)))
    early_originals = set(range(len(anchors.originals) - anchors.early_originals, len(anchors.originals)))
    return [everything - labelled - early_originals, labelled, early_originals]


def test_lists_are_interleaved_in_proportion_and_in_their_order() -> None:
    assert interleave([[0, 1, 2, 3], [10, 11], [20]]) == [0, 10, 20, 1, 2, 11, 3]
    assert interleave([]) == interleave([[]]) == []


@pytest.mark.parametrize("share", [1 / 3, 2 / 3])
def test_each_look_holds_its_share_of_each_source(share: float) -> None:
    order = interim_order(ANCHORS)
    assert sorted(order) == list(range(len(ANCHORS.originals)))
    prefix = set(order[: int(share * len(order))])
    for source in sources(ANCHORS):
        assert abs(len(prefix & source) - share * len(source)) <= 1


@pytest.mark.parametrize("labelled", [(), tuple(PAIRS)])
def test_the_first_third_holds_every_family_of_attacks(labelled: Sequence[LabelledPair]) -> None:
    anchors = build_anchors(PACK, 24, labelled)
    order = interim_order(anchors)
    prefix = set(order[: len(order) // 3])
    assert {case.kind for case in anchors.attacked if case.original in prefix} == FAMILIES


def test_the_order_hangs_on_the_anchors_alone() -> None:
    assert interim_order(ANCHORS) == interim_order(build_anchors(PACK, 24, PAIRS[::-1], EARLY_COMPLETIONS))


async def test_a_candidate_that_gains_on_labelled_pairs_alone_passes() -> None:
    """To it as to the active rubric all of the pack's anchors are equal; it puts right whatever people have ordered."""
    anchors = build_anchors(PACK, 24, PAIRS)
    pack, labelled, _ = sources(anchors)
    better, start = checks_only(2), len(anchors.originals)
    batches: list[list[int]] = []

    async def score(task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
        numbers = [int((item.id or "").removeprefix("anchor-")) for item in items]
        batches.append(numbers)
        is_better = rubric.digest == better.digest
        return [0.9 if is_better and n < start and n in labelled else 0.5 for n in numbers]

    gate = Gate(score, TASK, anchors, GateLimits(alpha=0.05, margin=0.05), [])
    (report,) = (await gate.decide("cycle", [Candidate(better, "test")], checks_only(1), None)).reports
    assert report.reasons == ()
    assert report.order_gain == pytest.approx(len(labelled) / len(pack | labelled))
    _, *analyses = batches
    assert sorted(chain(*analyses)) == list(range(len(anchors.cases))), "each case once"
    for batch in analyses:
        whole = {anchors.cases[n].original for n in batch}
        assert sorted(batch) == [n for n, case in enumerate(anchors.cases) if case.original in whole], (
            "twins go together"
        )
