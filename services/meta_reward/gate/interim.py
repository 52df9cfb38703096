"""In what order the gate looks at its originals: early looks see a share of every source and every family. Pure.

A candidate that shows nothing on the first third is dropped there. So that third must not be all of one kind: what
gains on the pairs that people labelled, or on one family of attacks, has to be seen to.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from regrade.tasks.anchors import LABELLED, AnchorSet

T = TypeVar("T")


def interim_order(anchors: AnchorSet) -> list[int]:
    """The indices of all originals: the pack's, the labelled and the early ones, evenly mixed; the same every time.

    The pack's are mixed by the families of the attacks made from them.
    """
    labelled = {case.original for case in anchors.damaged if case.kind == LABELLED}
    grown = range(len(anchors.originals) - anchors.early_originals, len(anchors.originals))
    rest = [index for index in range(grown.start) if index not in labelled]
    return interleaved([_by_family(anchors, rest), sorted(labelled), grown])


def _by_family(anchors: AnchorSet, indices: Sequence[int]) -> list[int]:
    """Those that more families were tried on come first: a short look then holds the most families it can."""
    families: defaultdict[int, set[str]] = defaultdict(set)
    for case in anchors.attacked:
        families[case.original].add(case.kind)
    alike: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index in indices:
        alike[tuple(sorted(families[index]))].append(index)
    return interleaved([alike[kinds] for kinds in sorted(alike, key=lambda kinds: (-len(kinds), kinds))])


def interleaved(lists: Sequence[Sequence[T]]) -> list[T]:
    """One list of which every beginning holds about the same share of each; within a list the order stays."""
    ranked = [
        (place / len(found), number, place, one)
        for number, found in enumerate(lists)
        for place, one in enumerate(found)
    ]
    return [one for *_, one in sorted(ranked, key=lambda row: row[:3])]
