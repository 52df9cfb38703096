"""The attack corpus: patterns aimed at a judge, and their combination with honest text.

The data lies with the tests, which hold the service to it; this module reads it for tests and benchmark alike.
"""

import json
from enum import StrEnum
from functools import cache
from pathlib import Path

from pydantic import Field

from regrade.contracts import Contract, Flag, Name

_FOLDER = Path(__file__).parent / "attacks"


class Placement(StrEnum):
    """Where a pattern stands in the attacked text."""

    WHOLE = "whole"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    INFIX = "infix"
    """After the first half of the honest words."""


class Pattern(Contract):
    """An attack: a literal text, `repeat` times over, and the flags that it has to raise.

    A guarded one earns nothing and costs no judge call.
    """

    id: Name
    family: Name
    placement: Placement
    template: str = Field(min_length=1)
    repeat: int = Field(default=1, ge=1, le=10_000)
    flags: tuple[Flag, ...] = ()
    guarded: bool = False

    @property
    def text(self) -> str:
        """What the attacker writes."""
        return self.template * self.repeat

    def applied_to(self, honest: str) -> str:
        """The attacked text. Joined, never formatted: a template holds braces of its own."""
        if self.placement is Placement.WHOLE:
            return self.text
        if self.placement is Placement.PREFIX:
            return f"{self.text}\n\n{honest}"
        if self.placement is Placement.SUFFIX:
            return f"{honest}\n\n{self.text}"
        words = honest.split(" ")
        half = len(words) // 2
        return " ".join((*words[:half], self.text, *words[half:]))


@cache
def load_patterns() -> tuple[Pattern, ...]:
    """All patterns, family by family."""
    lines = (_FOLDER / "patterns.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Pattern.model_validate_json(line) for line in lines if line.strip())


@cache
def special_tokens() -> dict[str, tuple[str, ...]]:
    """Special tokens as tokenizers spell them, by model family."""
    listed = json.loads((_FOLDER / "special_tokens.json").read_text(encoding="utf-8"))
    return {family: tuple(tokens) for family, tokens in listed.items()}
