"""Makes items of what a trainer has. One whose content cannot be scored is refused by itself, not with its batch."""

import reprlib
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from regrade.contracts import ErrorCode, ItemError, ItemResult, RubricRef, ScoreItem

ItemFields = Mapping[str, Any]
"""The fields of a `ScoreItem`, in any shape that a trainer or a dataset gives them."""

STAND_INS: dict[str, Any] = {
    "prompt": "-", "completion": "-", "reference": None, "scope": None, "group": None, "metadata": {},
}  # fmt: skip
"""The fields that come from a policy or a dataset, with a valid value of each; the others come from code."""


class RefusedItem(NamedTuple):
    """An item that cannot be scored, and why."""

    id: str | None
    message: str


def read_item(item: ScoreItem | ItemFields | RefusedItem) -> ScoreItem | RefusedItem:
    """The item, or why it is refused. Raises `ValidationError` unless only fields of `STAND_INS` are wrong."""
    if isinstance(item, ScoreItem | RefusedItem):
        return item
    try:
        return ScoreItem.model_validate(item)
    except ValidationError as error:
        problems = content_problems(error)
        if not problems:
            raise
        return RefusedItem(item.get("id"), "; ".join(problems.values()))


def content_problems(error: ValidationError) -> dict[str, str]:
    """What is wrong with a `ScoreItem`, by field; empty where it is not only the content of `STAND_INS`."""
    problems: dict[str, str] = {}
    for each in error.errors(include_url=False):
        field = str(each["loc"][0]) if each["loc"] else ""
        if field not in STAND_INS or each["type"] == "missing":
            return {}
        # The readers' own messages show the value; for the others it is added.
        value = "" if each["type"] == "value_error" else f", not {reprlib.repr(each['input'])}"
        where = ".".join(str(part) for part in each["loc"][:2])
        problems.setdefault(field, f"{where}: {each['msg'].removeprefix('Value error, ')}{value}")
    return problems


def refused_result(item: RefusedItem, lineage: str) -> ItemResult:
    """The outcome of a refused item, which the service has not seen."""
    return ItemResult(
        id=item.id or uuid.uuid4().hex,
        reward=None,
        raw=None,
        rubric=RubricRef(lineage=lineage, scope=None, version=None, digest=""),
        criteria=(),
        flags=(),
        error=ItemError(code=ErrorCode.INVALID_ITEM, message=item.message, retryable=False),
        trace_id="",
        cached=False,
    )
