"""The least that an engine must compute: distinct tokens in the prefix tree of a batch's prompts. Pure."""

from collections.abc import Iterable, Sequence
from itertools import pairwise


def distinct_tokens(prompts: Iterable[Sequence[int]]) -> int:
    """Nodes of the prompts' prefix tree: in sorted order, each prompt adds what it does not share with the last one."""
    ordered = sorted(map(tuple, prompts))
    if not ordered:
        return 0
    return len(ordered[0]) + sum(len(after) - _shared(before, after) for before, after in pairwise(ordered))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    shared = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared += 1
    return shared
