"""Filter over a lineage's traces. Pure."""

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import Field, model_validator

from regrade.contracts import Contract, Flag, Name, Purpose, Trace, as_text
from services.kit.store.keys import LineageKey

PAGE_SCAN = 4_096
"""Entries of the trace log that one page of results reads: about 10 MB of JSON."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TraceFilter(Contract):
    """Conditions on a trace; a field that is None matches every trace."""

    run: Name | None = None
    step: int | None = Field(default=None, ge=0, le=2**53)
    version: int | None = Field(default=None, ge=1, le=2**31, description="rubric version that gave the reward")
    flag: Flag | None = None
    lowest: Share | None = Field(default=None, description="lowest reward")
    highest: Share | None = Field(default=None, description="highest reward")
    group: str | None = Field(default=None, min_length=1, max_length=128)
    purpose: Purpose | None = None
    text: str | None = Field(
        default=None, min_length=1, max_length=200, description="text that prompt or completion contains, in any case"
    )

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.lowest is not None and self.highest is not None and self.lowest > self.highest:
            raise ValueError("the lowest reward is above the highest")
        return self

    def in_lineage(self, lineage: LineageKey) -> Callable[[Trace], bool]:
        """A predicate: whether a trace belongs to the lineage and matches."""
        equal = {
            name: value
            for name in ("run", "step", "version", "group", "purpose")
            if (value := getattr(self, name)) is not None
        }
        low = 0.0 if self.lowest is None else self.lowest
        high = 1.0 if self.highest is None else self.highest
        text = self.text.casefold() if self.text else ""

        def matches(trace: Trace) -> bool:
            return (
                (trace.lineage, trace.scope) == (lineage.name, lineage.scope)
                and low <= trace.reward <= high
                and (self.flag is None or self.flag in trace.flags)
                and all(getattr(trace, name) == value for name, value in equal.items())
                and (not text or any(text in as_text(part).casefold() for part in (trace.prompt, trace.completion)))
            )

        return matches
