"""The difference of two rubrics as criteria and as a unified diff. Pure."""

import difflib

from regrade.contracts import Criterion, LlmCriterion, Rubric, RubricDiff


def diff_rubrics(before: Rubric, after: Rubric) -> RubricDiff:
    """The ids of added, removed and changed criteria, and a unified diff of both rubrics as text."""
    old = {criterion.id: criterion for criterion in before.criteria}
    new = {criterion.id: criterion for criterion in after.criteria}
    lines = difflib.unified_diff(_lines(before), _lines(after), _title(before), _title(after), lineterm="", n=100)
    return RubricDiff(
        before=before,
        after=after,
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(name for name in new if name in old and old[name] != new[name]),
        text="\n".join(lines),
    )


def _title(rubric: Rubric) -> str:
    return f"version {rubric.version or '-'} ({rubric.digest[:12]})"


def _lines(rubric: Rubric) -> list[str]:
    lines = [f"preamble: {rubric.preamble}"] if rubric.preamble else []
    for criterion in rubric.criteria:
        lines.extend(_criterion_lines(criterion))
    return [*lines, f"offset: {rubric.offset:+.3f}"]


def _criterion_lines(criterion: Criterion) -> list[str]:
    head = f"{criterion.id} [{criterion.role.value}, weight {criterion.weight:g}] {criterion.name}"
    if isinstance(criterion, LlmCriterion):
        return [head, f"  {criterion.description}", *(f"  {n}: {text}" for n, text in enumerate(criterion.levels))]
    parameters = criterion.check.model_dump(mode="json", by_alias=True, exclude={"check"})
    listed = ", ".join(f"{name}={value}" for name, value in parameters.items())
    return [head, f"  check {criterion.check.check}({listed})"]
