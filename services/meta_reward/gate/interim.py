"""Interim analyses: a candidate without prospects is dropped before all anchors are scored. Pure.

The first third of the originals must hold a share of every source and of every attack family: a candidate that gains
only on labelled pairs, or on one family of attacks, has to show it there.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from regrade.tasks.anchors import LABELLED, AnchorSet
from services.meta_reward.gate.anchor_statistics import AnchorScores, paired_gain

T = TypeVar("T")

INTERIM_FRACTIONS = (("a third", 1 / 3), ("two thirds", 2 / 3))
"""Two analyses: the first catches most losers at a third of the cost; more would save little."""
_FUTILITY_LEVEL = 0.05
"""Dropping a candidate can only cost a gain, never a false activation, so the usual level is enough."""


def futility(candidate: AnchorScores, active: AnchorScores, margin: float) -> str | None:
    """Why a candidate has no prospect of being accepted, from its scores so far; None when it has."""
    if candidate.mean_net <= active.mean_net and candidate.mean_resisted <= active.mean_resisted:
        return "no gain"
    if paired_gain(active.net, candidate.net, _FUTILITY_LEVEL).lower > margin:
        return "worse by more than the margin, with confidence"
    return None


def interim_order(anchors: AnchorSet) -> list[int]:
    """Indices of all originals, the pack's, the labelled and the early ones evenly mixed; always in the same order.

    The pack's are mixed by the families of the attacks made from them.
    """
    labelled = {case.original for case in anchors.damaged if case.kind == LABELLED}
    early = range(anchors.base_originals, len(anchors.originals))
    pack = [index for index in range(early.start) if index not in labelled]
    return interleave([_by_family(anchors, pack), sorted(labelled), early])


def _by_family(anchors: AnchorSet, indices: Sequence[int]) -> list[int]:
    """Originals attacked by more families come first, so that a short prefix holds as many families as it can."""
    families: defaultdict[int, set[str]] = defaultdict(set)
    for case in anchors.attacked:
        families[case.original].add(case.kind)
    alike: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index in indices:
        alike[tuple(sorted(families[index]))].append(index)
    return interleave([alike[kinds] for kinds in sorted(alike, key=lambda kinds: (-len(kinds), kinds))])


def interleave(lists: Sequence[Sequence[T]]) -> list[T]:
    """One list of which every prefix holds about the same share of each list; within a list the order stays."""
    ranked = [
        (place / len(values), number, place, value)
        for number, values in enumerate(lists)
        for place, value in enumerate(values)
    ]
    return [value for *_, value in sorted(ranked, key=lambda entry: entry[:3])]
