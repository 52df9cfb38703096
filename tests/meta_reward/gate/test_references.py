"""What is checked against a reference is checked in the gate, too: in pairs, early completions and trusted groups."""

from collections.abc import Sequence

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from regrade import RewardClient
from regrade.contracts import LabelledPair, Rubric, ScoreItem
from regrade.tasks import load_pack
from regrade.tasks.anchors import LABELLED, build_anchors, is_held_out
from regrade.tasks.pack import Original
from services.kit.store import keys
from services.meta_reward.clients.shadow import shadow_scorer
from services.meta_reward.gate.early_originals import select_early
from services.meta_reward.gate.gate import Gate, GateLimits
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.types import Candidate
from tests.support.builders import ESSAY, LINEAGE, TASK, check, checks_only, rubric, trace

PACK = load_pack(TASK)
ANCHORS = build_anchors(PACK, 12)
PAIRS = [
    LabelledPair(prompt=f"{n} and {n}?", better=f"It is {2 * n}.", worse=f"It is {n}.", reference=str(2 * n))
    for n in range(1, 9)
]
OLD = [LabelledPair(prompt=pair.prompt, better=pair.better, worse=pair.worse) for pair in PAIRS]
HIDDEN = next(name for name in "abcdef" if is_held_out(f"trace-{name}"))


def test_a_labelled_pair_is_measured_with_its_reference() -> None:
    anchors = build_anchors(PACK, 12, PAIRS)
    twins = [case for case in anchors.damaged if case.kind == LABELLED]
    assert twins
    for twin in twins:
        n = PAIRS[[pair.prompt for pair in PAIRS].index(twin.prompt)].reference
        assert twin.reference == anchors.originals[twin.original].reference == n
        assert twin.item(0).reference == n


async def test_a_check_of_the_answer_orders_labelled_pairs(client: RewardClient) -> None:
    """Through the reward service: without a reference the check has nothing to say, and there is no reward."""
    anchors = build_anchors(PACK, 12, PAIRS)
    right = rubric(check("right", {"check": "math_equal"}))
    known = [case.item(n) for n, case in enumerate(anchors.cases) if case.reference is not None]
    better, worse = known[: len(known) // 2], known[len(known) // 2 :]
    assert better
    assert await shadow_scorer(client, 16)(TASK, right, better) == [1.0] * len(better)
    assert await shadow_scorer(client, 16)(TASK, right, worse) == [0.0] * len(worse)
    (plain,) = await shadow_scorer(client, 16)(TASK, right, [better[0].model_copy(update={"reference": None})])
    assert plain is None


def test_a_reference_is_optional_and_makes_no_other_pair() -> None:
    """The identity says which side of the split a pair is on: what proposers have seen is not hidden later."""
    assert [pair.identity for pair in OLD] == [pair.identity for pair in PAIRS]
    plain = '{"prompt": "p", "better": "b", "worse": "w"}'
    assert LabelledPair.model_validate_json(plain).reference is None
    with pytest.raises(ValidationError):
        LabelledPair(prompt="p", better="b", worse="w", reference="")


def test_anchors_without_references_keep_their_names() -> None:
    """Frozen: as they were before pairs and early completions could have any."""
    texts = [Original(id=f"o{n}", prompt=f"Text {n}?", completion=f"One. Two. Three. It is {n}.") for n in range(9)]
    pack = PACK.model_copy(update={"originals": tuple(texts), "attacks": ()})
    early_originals = [
        Original(id="e", prompt="Early?", completion="A tree stands. It grows, and it gives shade. So be it.")
    ]
    extended = build_anchors(pack, 12, OLD, early_originals)
    assert (extended.base, extended.version) == ("e71629325a7f", "9a4f4a10d8cc")
    assert build_anchors(pack, 12, PAIRS, early_originals).base != extended.base


async def test_pairs_that_were_kept_before_load_and_take_a_reference_up(redis: Redis) -> None:
    """What is written without a reference is what an earlier release wrote, and reads."""
    store = AnchorStore(redis, 12)
    await store.add(TASK, OLD)
    assert await store.read(LINEAGE) == build_anchors(PACK, 12, OLD)
    stored = await redis.hvals(keys.anchors_key(TASK))
    assert len(stored) == len(OLD)
    assert not any("reference" in text for text in stored)
    await store.add(TASK, PAIRS)
    assert await store.read(LINEAGE) == build_anchors(PACK, 12, PAIRS)
    await store.add(TASK, OLD)
    assert await store.read(LINEAGE) == build_anchors(PACK, 12, PAIRS), "a second import forgets none"


def test_an_early_completion_keeps_its_reference() -> None:
    for given, stored in (("4", "4"), ("", None), (None, None)):
        taken = select_early([trace(HIDDEN, prompt="2 and 2?", completion=ESSAY, reference=given)], ANCHORS, 1)
        assert [original.reference for original in taken.values()] == [stored]
    extended = build_anchors(
        PACK, 12, early_originals=[Original(id="e", prompt="2 and 2?", completion=ESSAY, reference="4")]
    )
    own = [case for case in extended.cases if case.original == 12]
    assert len(own) > 3
    assert {case.reference for case in own} == {"4"}


def test_an_early_completion_with_too_long_a_reference_is_not_taken() -> None:
    assert select_early([trace(HIDDEN, prompt="?", completion=ESSAY, reference="4" * 20_001)], ANCHORS, 1) == {}


async def test_trusted_groups_are_scored_with_their_references() -> None:
    references: dict[str, str | None] = {}

    async def score(task: str, wanted: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
        references.update({str(item.id): item.reference for item in items})
        return [0.5] * len(items)

    group = [trace(f"t{n}", reference=str(n)) for n in range(3)]
    gate = Gate(score, TASK, ANCHORS, GateLimits(alpha=0.05, margin=0.05), [group])
    await gate.decide("cycle", [Candidate(checks_only(2), "test")], checks_only(1), None)
    assert {references[t.trace_id] for t in group} == {"0", "1", "2"}
