"""Two rubrics side by side: criterion by criterion, and within a text the words that changed. Pure."""

import difflib
from itertools import pairwise
from typing import Literal, NamedTuple

from regrade.contracts import Criterion, LlmCriterion, Rubric

Change = Literal["same", "added", "removed", "changed"]


class TextSpan(NamedTuple):
    """A part of a text; `is_new` when the other side does not have it."""

    text: str
    is_new: bool


class FieldDiff(NamedTuple):
    """One field on both sides; a side without the field is empty."""

    label: str
    before: tuple[TextSpan, ...]
    after: tuple[TextSpan, ...]
    is_same: bool


class CriterionDiff(NamedTuple):
    """One criterion, or the rubric's own fields, on both sides."""

    title: str
    change: Change
    rows: tuple[FieldDiff, ...]


def side_by_side(before: Rubric, after: Rubric) -> tuple[CriterionDiff, ...]:
    """Differences in the order of `after`; a removed criterion follows the one it followed before."""
    old = {criterion.id: criterion for criterion in before.criteria}
    new = {criterion.id: criterion for criterion in after.criteria}
    head = _criterion_diff("rubric", _rubric_fields(before), _rubric_fields(after))
    fields = [(name, _criterion_fields(old.get(name)), _criterion_fields(new.get(name))) for name in _order(old, new)]
    return (head, *(_criterion_diff(*both) for both in fields))


def change_summary(before: Rubric, after: Rubric) -> str:
    """What distinguishes `after` from `before` in one line, by criteria's names."""
    old = {criterion.id: criterion for criterion in before.criteria}
    new = {criterion.id: criterion for criterion in after.criteria}
    changes = {
        "adds": [_titled(new[name]) for name in new if name not in old],
        "changes": [_titled(new[name]) for name in new if name in old and new[name] != old[name]],
        "drops": [_titled(old[name]) for name in old if name not in new],
    }
    parts = [f"{verb} {', '.join(titles)}" for verb, titles in changes.items() if titles]
    if after.preamble != before.preamble:
        parts.append("another preamble")
    if after.offset != before.offset:
        parts.append(f"offset {after.offset:+.3f}")
    return "; ".join(parts) or "the same criteria"


def _titled(criterion: Criterion) -> str:
    return criterion.name if isinstance(criterion, LlmCriterion) else f"{criterion.name} (check)"


def _order(old: dict[str, Criterion], new: dict[str, Criterion]) -> list[str]:
    order = list(new)
    for previous, name in pairwise([None, *old]):
        if name is not None and name not in new:
            order.insert(order.index(previous) + 1 if previous in order else 0, name)
    return order


def _criterion_diff(title: str, before: dict[str, str], after: dict[str, str]) -> CriterionDiff:
    labels = [*after, *(label for label in before if label not in after)] if after else list(before)
    rows = tuple(_field_diff(label, before.get(label, ""), after.get(label, "")) for label in labels)
    if not before or not after:
        change: Change = "removed" if before else "added"
    else:
        change = "same" if all(row.is_same for row in rows) else "changed"
    return CriterionDiff(title, change, rows)


def _field_diff(label: str, before: str, after: str) -> FieldDiff:
    if before == after:
        return FieldDiff(label, _spans(before, False), _spans(after, False), True)
    if not before or not after:
        return FieldDiff(label, _spans(before, True), _spans(after, True), False)
    old, new = before.split(" "), after.split(" ")
    opcodes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return FieldDiff(
        label,
        tuple(span for kind, a0, a1, _, _ in opcodes for span in _spans(" ".join(old[a0:a1]), kind != "equal")),
        tuple(span for kind, _, _, b0, b1 in opcodes for span in _spans(" ".join(new[b0:b1]), kind != "equal")),
        False,
    )


def _spans(text: str, is_new: bool) -> tuple[TextSpan, ...]:
    return (TextSpan(text, is_new),) if text else ()


def _rubric_fields(rubric: Rubric) -> dict[str, str]:
    return {"preamble": rubric.preamble, "offset": f"{rubric.offset:+.3f}"}


def _criterion_fields(criterion: Criterion | None) -> dict[str, str]:
    if criterion is None:
        return {}
    fields = {"name": criterion.name, "role": criterion.role.value, "weight": f"{criterion.weight:g}"}
    if criterion.threshold is not None:
        fields["threshold"] = f"{criterion.threshold:g}"
    if isinstance(criterion, LlmCriterion):
        return fields | {"description": criterion.description} | {str(n): t for n, t in enumerate(criterion.levels)}
    parameters = criterion.check.model_dump(mode="json", by_alias=True, exclude={"check"})
    return fields | {"check": criterion.check.check} | {name: str(value) for name, value in parameters.items()}
