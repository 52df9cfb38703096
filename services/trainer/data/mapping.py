"""From a row of any dataset to an example: which columns are the prompt, the reference, the scope. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

_SLOT = re.compile(r"\{([\w.]+)\}")
_NOT_IN_A_SCOPE = re.compile(r"[^A-Za-z0-9_.-]+")


class MappingError(ValueError):
    """A mapping that names what the rows have not."""


class Columns(BaseModel):
    """A column's name (`a.b` for a field within one), or a text with `{column}` slots; and what rows are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field("prompt", description="What the policy is given.")
    reference: str | None = Field(None, description="What checks and evaluators compare with.")
    scope: str | None = Field(None, description="What kind of prompt it is.")
    values: dict[str, str] = Field({}, description="What a reference is called here, by what the rows call it.")
    where: dict[str, str] = Field({}, description="Only rows whose column has this value.")
    min_chars: int = Field(1, ge=1, description="Shorter prompts are left out.")
    max_chars: int = Field(20_000, ge=1, description="Longer prompts are left out.")


class Example(NamedTuple):
    """A prompt as the dataset has it, not yet in the task's template."""

    prompt: str
    reference: str | None = None
    scope: str | None = None


class Reading:
    """Makes examples of rows, and counts the rows left out by reason."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.left_out: dict[str, int] = {}

    def examples(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Example]:
        """One example a usable row, in order. Raises `MappingError` where a row lacks a column."""
        for row in rows:
            made = self._example(row)
            if isinstance(made, Example):
                yield made
            else:
                self.left_out[made] = self.left_out.get(made, 0) + 1

    def _example(self, row: Mapping[str, Any]) -> Example | str:
        columns = self._columns
        if any(_text(_value(row, name)) != wanted for name, wanted in columns.where.items()):
            return "not asked for"
        prompt = _read(row, columns.prompt).strip()
        if not columns.min_chars <= len(prompt) <= columns.max_chars:
            return "too short" if len(prompt) < columns.min_chars else "too long"
        reference = None
        if columns.reference is not None:
            found = _read(row, columns.reference).strip()
            if not found:
                return "without a reference"
            if columns.values and found not in columns.values:
                return "with a reference of no listed value"
            reference = columns.values.get(found, found)
        return Example(prompt, reference, as_scope(_read(row, columns.scope)) if columns.scope else None)


def as_scope(label: str) -> str | None:
    """A label in the form a scope has: `Counting & Probability` becomes `counting_and_probability`."""
    return _NOT_IN_A_SCOPE.sub("_", label.strip().lower().replace("&", "and")).strip("_")[:64] or None


def _read(row: Mapping[str, Any], place: str) -> str:
    """A column, or a text with its slots filled in one pass: a value that holds a slot of its own stays as it is."""
    if "{" not in place:
        return _text(_value(row, place))
    return _SLOT.sub(lambda match: _text(_value(row, match.group(1))), place)


def _value(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise MappingError(f"no column {path!r}; a row has: {', '.join(row)}")
        value = value[part]
    return value


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)
