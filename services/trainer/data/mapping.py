"""From a dataset's row to an example: which columns hold the prompt, the reference and the scope. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

_SLOT = re.compile(r"\{([\w.]+)\}")
_NOT_IN_A_SCOPE = re.compile(r"[^A-Za-z0-9_.-]+")


class MappingError(ValueError):
    """A mapping names a column that the rows do not have."""


class Columns(BaseModel):
    """Which columns to read, by name (`a.b` for a nested field) or as a text with `{column}` slots, and row filters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field("prompt", description="Column of the prompt.")
    reference: str | None = Field(None, description="Column of the reference that checks and evaluators compare with.")
    scope: str | None = Field(None, description="Column of the prompt's category; becomes its scope.")
    values: dict[str, str] = Field({}, description="Maps the dataset's reference values to the task's labels.")
    where: dict[str, str] = Field({}, description="Keep only rows whose columns have these values.")
    min_chars: int = Field(1, ge=1, description="Skip shorter prompts.")
    max_chars: int = Field(20_000, ge=1, description="Skip longer prompts.")


class Example(NamedTuple):
    """A prompt as the dataset has it, before the task's template is applied."""

    prompt: str
    reference: str | None = None
    scope: str | None = None


class ExampleReader:
    """Maps rows to examples; `skipped` counts the skipped rows by reason."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.skipped: Counter[str] = Counter()

    def examples(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Example]:
        """One example per usable row, in order. Raises `MappingError` when a row lacks a column."""
        for row in rows:
            result = self._example(row)
            if isinstance(result, Example):
                yield result
            else:
                self.skipped[result] += 1

    def _example(self, row: Mapping[str, Any]) -> Example | str:
        """The example, or the reason to skip the row."""
        columns = self._columns
        if any(_text(_value(row, name)) != value for name, value in columns.where.items()):
            return "filtered by `where`"
        prompt = _fill(row, columns.prompt).strip()
        if not columns.min_chars <= len(prompt) <= columns.max_chars:
            return "too short" if len(prompt) < columns.min_chars else "too long"
        reference = None
        if columns.reference is not None:
            value = _fill(row, columns.reference).strip()
            if not value:
                return "without a reference"
            if columns.values and value not in columns.values:
                return "reference not among `values`"
            reference = columns.values.get(value, value)
        return Example(prompt, reference, as_scope(_fill(row, columns.scope)) if columns.scope else None)


def as_scope(label: str) -> str | None:
    """A label as a valid scope name: `Counting & Probability` becomes `counting_and_probability`."""
    return _NOT_IN_A_SCOPE.sub("_", label.strip().lower().replace("&", "and")).strip("_")[:64] or None


def _fill(row: Mapping[str, Any], template: str) -> str:
    """A column's text, or a template filled in one pass, so that slots within values stay as they are."""
    if "{" not in template:
        return _text(_value(row, template))
    return _SLOT.sub(lambda match: _text(_value(row, match.group(1))), template)


def _value(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise MappingError(f"no column {path!r}; the row has: {', '.join(row)}")
        value = value[name]
    return value


def _text(value: Any) -> str:
    return "" if value is None else str(value)
