"""Two rubrics side by side: criterion beside criterion, and within a text the words that changed. Pure."""

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from regrade.contracts import Criterion, LlmCriterion, Rubric

Change = Literal["same", "added", "removed", "changed"]


class Part(NamedTuple):
    """A stretch of a text, and whether it is on one side only."""

    text: str
    is_new: bool


class Row(NamedTuple):
    """One field on both sides; a side that has none is empty."""

    label: str
    left: tuple[Part, ...]
    right: tuple[Part, ...]
    is_same: bool


class Block(NamedTuple):
    """One criterion (or the head of a rubric) on both sides."""

    title: str
    change: Change
    rows: tuple[Row, ...]


def side_by_side(before: Rubric, after: Rubric) -> tuple[Block, ...]:
    """Blocks in the order of `after`; what was removed stands behind what it stood behind."""
    old = {criterion.id: criterion for criterion in before.criteria}
    new = {criterion.id: criterion for criterion in after.criteria}
    head = _block("rubric", _head(before), _head(after))
    return (head, *(_block(name, _fields(old.get(name)), _fields(new.get(name))) for name in _order(old, new)))


def _order(old: dict[str, Criterion], new: dict[str, Criterion]) -> list[str]:
    order = list(new)
    before = list(old)
    for previous, name in pairwise([None, *before]):
        if name is not None and name not in new:
            order.insert(order.index(previous) + 1 if previous in order else 0, name)
    return order


def _block(title: str, left: dict[str, str], right: dict[str, str]) -> Block:
    labels = [*right, *(label for label in left if label not in right)] if right else list(left)
    rows = tuple(_row(label, left.get(label, ""), right.get(label, "")) for label in labels)
    if not left or not right:
        change: Change = "removed" if left else "added"
    else:
        change = "same" if all(row.is_same for row in rows) else "changed"
    return Block(title, change, rows)


def _row(label: str, left: str, right: str) -> Row:
    if not left or not right or left == right:
        alone = left != right
        return Row(label, _whole(left, alone), _whole(right, alone), left == right)
    mine, theirs = left.split(" "), right.split(" ")
    matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
    gone: list[Part] = []
    come: list[Part] = []
    for kind, a0, a1, b0, b1 in matcher.get_opcodes():
        gone.extend(_part(mine[a0:a1], kind != "equal"))
        come.extend(_part(theirs[b0:b1], kind != "equal"))
    return Row(label, tuple(gone), tuple(come), False)


def _part(words: Sequence[str], is_new: bool) -> tuple[Part, ...]:
    return (Part(" ".join(words), is_new),) if words else ()


def _whole(text: str, is_new: bool) -> tuple[Part, ...]:
    return (Part(text, is_new),) if text else ()


def _head(rubric: Rubric) -> dict[str, str]:
    return {"preamble": rubric.preamble, "offset": f"{rubric.offset:+.3f}"}


def _fields(criterion: Criterion | None) -> dict[str, str]:
    if criterion is None:
        return {}
    fields = {"name": criterion.name, "role": criterion.role.value, "weight": f"{criterion.weight:g}"}
    if criterion.threshold is not None:
        fields["threshold"] = f"{criterion.threshold:g}"
    if isinstance(criterion, LlmCriterion):
        return fields | {"description": criterion.description} | {str(n): t for n, t in enumerate(criterion.levels)}
    given = criterion.check.model_dump(mode="json", by_alias=True, exclude={"check"})
    return fields | {"check": criterion.check.check} | {name: str(value) for name, value in given.items()}
