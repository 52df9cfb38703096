"""The order of conversations for a server whose slots each cache the prefix of their last conversation. Pure.

Siblings are the questions about one response. Sent to several slots at once, each slot would compute the response
again. So one question about each of as many responses as there are slots comes first, then the second question about
each, and so on: the slot that has a response in its cache is then about to be free.
"""

from collections.abc import Sequence
from itertools import chain, zip_longest


def interleave_siblings(prefix_keys: Sequence[tuple[str, ...]], slots: int) -> list[int]:
    """Indices of the conversations with these keys, in the order to send. Siblings differ in the last part alone."""
    siblings: dict[tuple[str, ...], list[int]] = {}
    for index, key in enumerate(prefix_keys):
        siblings.setdefault(key[:-1], []).append(index)
    families = list(siblings.values())
    rounds = chain.from_iterable(
        zip_longest(*families[start : start + slots]) for start in range(0, len(families), slots)
    )
    return [index for indices in rounds for index in indices if index is not None]
