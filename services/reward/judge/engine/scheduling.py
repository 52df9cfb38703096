"""In which order a server whose slots have a cache each is asked: no two siblings at once. Pure.

A slot reuses the beginning of the conversation it had before. Siblings, the questions about one response, would compute
that response once each if they came to several slots at the same time. So as many responses as there are slots
are asked about in turn: when a response's next question comes, the slot that knows it is about to be free.
"""

from collections.abc import Sequence
from itertools import chain, zip_longest


def siblings_apart(paths: Sequence[tuple[str, ...]], slots: int) -> list[int]:
    """Positions of the conversations with these paths, in the order to ask them. Siblings differ in the last part."""
    families: dict[tuple[str, ...], list[int]] = {}
    for position, path in enumerate(paths):
        families.setdefault(path[:-1], []).append(position)
    found = list(families.values())
    rounds = chain.from_iterable(zip_longest(*found[at : at + slots]) for at in range(0, len(found), slots))
    return [position for turn in rounds for position in turn if position is not None]
