"""The parameter schemas of the check catalogue: measures of a completion that cost no judge call.

A check states what is wanted and yields a value in [0, 1]. There is no code and no free-form
expression in a check, only a name and bounded parameters, so a meta-judge may propose one.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from regrade.contracts.base import Contract, Count, Number, canonical_json

MOST_WORDS, MOST_SENTENCES = 20_000, 1_000
MAX_SCHEMA_BYTES = 8_192
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})


class CheckParameters(Contract):
    """Base of a check's parameters; `check` is its name."""

    needs_reference: ClassVar[bool] = False
    """Whether the item must bring a reference."""


class MinWords(CheckParameters):
    """At least `words` words; below it the value falls linearly to 0."""

    check: Literal["min_words"]
    words: Count = Field(ge=1, le=MOST_WORDS)
    """Smallest number of words."""


class MaxWords(CheckParameters):
    """At most `words` words; above it the value falls linearly to 0 at twice the limit."""

    check: Literal["max_words"]
    words: Count = Field(ge=1, le=MOST_WORDS)
    """Largest number of words."""


class MinSentences(CheckParameters):
    """At least `sentences` sentences; below it the value falls linearly to 0."""

    check: Literal["min_sentences"]
    sentences: Count = Field(ge=1, le=MOST_SENTENCES)
    """Smallest number of sentences."""


class Language(CheckParameters):
    """The completion is written in `language` (ISO 639-1)."""

    check: Literal["language"]
    language: str = Field(pattern=r"^[a-z]{2}$")
    """Language code (ISO 639-1)."""


class NotRepetitive(CheckParameters):
    """The share of distinct word n-grams reaches `min_distinct`; 0 at half of it, linear between."""

    check: Literal["not_repetitive"]
    ngram: Count = Field(default=4, ge=1, le=8)
    """Words in an n-gram."""
    min_distinct: Number = Field(default=0.9, gt=0.0, le=1.0)
    """Share of distinct n-grams that gives the value 1."""


class NoPromptCopy(CheckParameters):
    """At most `max_copied` of the completion's word 5-grams stand in the prompt; 0 when all do."""

    check: Literal["no_prompt_copy"]
    max_copied: Number = Field(default=0.2, ge=0.0, lt=1.0)
    """Share of copied 5-grams up to which the value is 1."""


class OnTopic(CheckParameters):
    """The completion uses at least `min_overlap` of the prompt's content words; linear below."""

    check: Literal["on_topic"]
    min_overlap: Number = Field(default=0.25, gt=0.0, le=1.0)
    """Share of the prompt's content words that gives the value 1."""


class Matches(CheckParameters):
    """The completion contains a match of `pattern`, an RE2 (linear-time) regular expression."""

    check: Literal["matches"]
    pattern: str = Field(min_length=1, max_length=256)
    """The regular expression, in RE2 syntax."""


class EndsProperly(CheckParameters):
    """The completion ends with a finished sentence, not in the middle of one."""

    check: Literal["ends_properly"]


class BoxedAnswer(CheckParameters):
    r"""The completion holds a non-empty `\boxed{...}` answer."""

    check: Literal["boxed_answer"]


class MathEqual(CheckParameters):
    """The completion's final answer, outside its reasoning, equals the item's reference."""

    needs_reference: ClassVar[bool] = True
    check: Literal["math_equal"]


class VerdictEqual(CheckParameters):
    """The last of `verdicts` that the completion names is the item's reference."""

    needs_reference: ClassVar[bool] = True
    check: Literal["verdict_equal"]
    verdicts: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(min_length=2, max_length=16)
    """The possible labels."""


class JsonSchema(CheckParameters):
    """The completion is a JSON document that fits `schema_`."""

    check: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")
    """The JSON Schema, without references."""

    @field_validator("schema_")
    @classmethod
    def _is_bounded(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if len(canonical_json(schema)) > MAX_SCHEMA_BYTES:
            raise ValueError(f"a JSON Schema in a check may take {MAX_SCHEMA_BYTES} bytes at most")
        if any(word in _REFERENCES for word in _words(schema)):
            raise ValueError("a JSON Schema in a check may not refer to itself or to others ($ref): it could never end")
        return schema


Check = Annotated[
    MinWords
    | MaxWords
    | MinSentences
    | Language
    | NotRepetitive
    | NoPromptCopy
    | OnTopic
    | Matches
    | EndsProperly
    | BoxedAnswer
    | MathEqual
    | VerdictEqual
    | JsonSchema,
    Field(discriminator="check"),
]


def _words(schema: Any) -> Iterator[str]:
    """Every key of a JSON value, at any depth."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
