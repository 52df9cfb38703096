"""Lint: what a candidate may not contain, whoever wrote it. Pure.

It checks form, not merit: a rule belongs here only if no honest criterion breaks it. Whether a well-formed criterion
helps is measured by the gate.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from regrade.contracts import LlmCriterion, Reason, ReasonCode, Role, Rubric, canonical_json
from services.kit.text.fence import neutralise
from services.kit.text.language import UNKNOWN_LANGUAGE, language_of
from services.kit.text.segments import words

MAX_CRITERIA = 12
"""Each criterion is a judge call per completion, and a longer rubric than this is hard to review."""
MAX_BYTES = 12_000
"""About 3,000 tokens; the rubric is part of prompts of the judge and of the meta-judge."""
MAX_SHARE = 0.6
"""Largest share of the award weight for one new criterion, since a policy that exploits it would exploit all."""
_LEAK_NGRAM = 7
"""Seven words in a row are a quotation; shorter runs occur in independent texts."""
_OVERLAP = 0.8
"""Jaccard similarity of two descriptions above which the judge would score one thing twice."""
_MIN_LEVEL_WORDS = 2
_NEGATION_REACH = 4
"""Words behind a negation that it is taken to deny."""
_STEM = 5
"""Words that agree in so many first letters count as one, so that inflected forms match."""

_GRADER = r"(?:you|the (?:judge|grader|marker|examiner|evaluator|assessor|reader of this))"
_TO_THE_JUDGE = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:rubric|criteri|instruction|above|previous|prompt)"
    r"|\b(?:always|must|should)\b.{0,20}\b(?:give|award|assign|score|return|answer|output)\b"
    r"|\b(?:give|award|assign|return|output)\b.{0,30}\b(?:a |the )?(?:full|maximum|top|highest|perfect|5|five)\b"
    r"|\b(?:deserves?|earns?|gets?|receives?|scores)\b.{0,20}\b(?:full marks|top|maximum|highest|5|five)\b"
    r"|\b(?:answer|reply|respond) (?:with|in)\b.{0,20}(?:\d|json|digit|one word|\"|')"
    r"|\b(?:is|are) to be (?:believed|trusted|obeyed|followed|accepted)\b"
    rf"|\b{_GRADER} (?:must|should|shall|will|may not|need not|are to|is to|have to|has to)\b"
    r"|\b(?:system prompt|as an ai|you are now|begin response|end response)\b",
    re.IGNORECASE | re.DOTALL,
)
_NEGATED = re.compile(
    r"\b(?:no|not|none|nothing|nobody|never|without|lacks?|lacking|misses|missing|absent|absence|hardly|free of"
    r"|avoids?|instead of|rather than)\b|n't\b",
    re.IGNORECASE,
)
_NUMERAL = re.compile(r"\b(?:\d+|zero|one|two|three|four|five|level|levels|point|points|score|out of)\b", re.IGNORECASE)


class LintInput(NamedTuple):
    """A candidate, and what the rules check it against."""

    candidate: Rubric
    active: Rubric
    sampled: Collection[str]
    """Texts that the proposers saw."""
    rolled_back: Mapping[str, str]
    """By digest, why a rubric was rolled back."""
    language: str
    """The task's language (ISO 639-1), or `UNKNOWN_LANGUAGE`."""

    @property
    def new_criteria(self) -> list[LlmCriterion]:
        """LLM criteria with a text that the active rubric does not have."""
        known = {criterion.id: _text_of(criterion) for criterion in self.active.llm_criteria}
        return [c for c in self.candidate.llm_criteria if known.get(c.id) != _text_of(c)]

    @property
    def new_texts(self) -> list[str]:
        """Texts of new criteria, and a new preamble."""
        preamble = [self.candidate.preamble] * (self.candidate.preamble != self.active.preamble)
        return [_text_of(criterion) for criterion in self.new_criteria] + preamble


LintRule = Callable[[LintInput], Iterator[str]]
"""Gives a text for each fault of a candidate."""


def lint(
    candidate: Rubric,
    active: Rubric,
    sampled: Iterable[str],
    rolled_back: Mapping[str, str],
    language: str = UNKNOWN_LANGUAGE,
) -> list[Reason]:
    """Why a candidate is refused; empty when it may go to the gate. For the arguments see `LintInput`."""
    given = LintInput(candidate, active, tuple(sampled), rolled_back, language)
    return [Reason(code=code, text=text) for code, rule in LINT_RULES for text in rule(given)]


def _was_rolled_back(given: LintInput) -> Iterator[str]:
    if given.candidate.digest in given.rolled_back:
        yield f"rolled back: {given.rolled_back[given.candidate.digest]}"


def _is_active(given: LintInput) -> Iterator[str]:
    if given.candidate.digest == given.active.digest:
        yield "same as the active rubric"


def _size(given: LintInput) -> Iterator[str]:
    if len(given.candidate.criteria) > MAX_CRITERIA:
        yield f"size: {len(given.candidate.criteria)} criteria, {MAX_CRITERIA} at most"
    if len(canonical_json(given.candidate.model_dump(mode="json"))) > MAX_BYTES:
        yield f"size: more than {MAX_BYTES} bytes"


def _duplicates(given: LintInput) -> Iterator[str]:
    checks = [criterion.check for criterion in given.candidate.check_criteria]
    texts = [canonical_json(check.model_dump(mode="json")) for check in checks]
    if len(set(texts)) < len(texts):
        yield "duplicate: the same check twice"
    kinds = [check.check for check in checks if check.check != "matches"]
    if len(set(kinds)) < len(kinds):
        yield "overlap: one kind of check with two parameters"
    for one, other in combinations(given.candidate.llm_criteria, 2):
        if words(one.name) == words(other.name):
            yield f"duplicate: {one.id!r} and {other.id!r} have one name, and the judge tells criteria apart by name"
        elif _is_overlap(one.description, other.description):
            yield f"overlap: {one.id!r} and {other.id!r} say the same"


def _is_overlap(one: str, other: str) -> bool:
    a, b = set(words(one)), set(words(other))
    return bool(a and b) and len(a & b) / len(a | b) >= _OVERLAP


def _weights(given: LintInput) -> Iterator[str]:
    known = {criterion.id for criterion in given.active.criteria}
    limit = MAX_SHARE * given.candidate.total_weight(Role.AWARD)
    for criterion in given.candidate.criteria:
        if criterion.id not in known and criterion.role is Role.AWARD and criterion.weight > limit:
            yield f"weights: {criterion.id!r} alone has more than {MAX_SHARE:.0%} of the award weight"


def _levels(given: LintInput) -> Iterator[str]:
    for criterion in given.new_criteria:
        levels = [" ".join(words(level)) for level in criterion.levels]
        amounts = [int(number.group()) for level in levels if (number := re.search(r"\d+", level))]
        if _are_only_numbers(levels):
            yield f"levels: those of {criterion.id!r} are numbers and do not describe a response"
        elif len(set(levels)) < len(levels):
            yield f"levels: two levels of {criterion.id!r} say the same"
        elif len(amounts) == len(levels) and amounts != sorted(amounts):
            yield f"levels: the amounts in {criterion.id!r} do not rise"
        elif criterion.role is Role.AWARD and _is_inverted(criterion):
            yield f"levels: the top one of {criterion.id!r} denies what it describes, the lowest one does not"


def _are_only_numbers(levels: Sequence[str]) -> bool:
    is_bare = any(len(words(_NUMERAL.sub("", level))) < _MIN_LEVEL_WORDS for level in levels)
    return is_bare and all(_NUMERAL.search(level) for level in levels)


def _is_inverted(criterion: LlmCriterion) -> bool:
    """The best level denies what is described, where neither the worst one nor the description denies anything."""
    described = f"{criterion.name} {criterion.description}"
    denial = _NEGATED.search(criterion.levels[-1])
    if denial is None or _NEGATED.search(described) or _NEGATED.search(criterion.levels[0]):
        return False
    denied = words(criterion.levels[-1][denial.end() :])[:_NEGATION_REACH]
    return bool(_stems(denied) & _stems(words(described)))


def _stems(tokens: Sequence[str]) -> set[str]:
    return {token[:_STEM] for token in tokens if len(token) >= _STEM}


def _instructions(given: LintInput) -> Iterator[str]:
    for text in given.new_texts:
        if _TO_THE_JUDGE.search(text):
            yield "instruction: speaks to the judge instead of describing the response"
        if neutralise(text).flags:
            yield "instruction: holds control tokens or hidden characters"


def _leaks(given: LintInput) -> Iterator[str]:
    sampled = {gram for text in given.sampled for gram in _grams(text)}
    quoted = next((gram for text in given.new_texts for gram in _grams(text) if gram in sampled), None)
    if quoted:
        yield f"leak: quotes sampled text ({' '.join(quoted)!r})"


def _languages(given: LintInput) -> Iterator[str]:
    """A judge reads criteria best in the language of the task, and so do the people who review them."""
    if given.language == UNKNOWN_LANGUAGE:
        return
    for criterion in given.new_criteria:
        language = language_of(_text_of(criterion))
        if language not in (given.language, UNKNOWN_LANGUAGE):
            yield f"language: {criterion.id!r} is written in {language!r}, the task is in {given.language!r}"


def _text_of(criterion: LlmCriterion) -> str:
    return "\n".join((criterion.name, criterion.description, *criterion.levels))


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    tokens = words(text)
    return (tuple(tokens[i : i + _LEAK_NGRAM]) for i in range(len(tokens) - _LEAK_NGRAM + 1))


LINT_RULES: tuple[tuple[ReasonCode, LintRule], ...] = (
    (ReasonCode.ROLLED_BACK, _was_rolled_back),
    (ReasonCode.SAME, _is_active),
    (ReasonCode.SIZE, _size),
    (ReasonCode.DUPLICATE, _duplicates),
    (ReasonCode.WEIGHTS, _weights),
    (ReasonCode.LEVELS, _levels),
    (ReasonCode.INSTRUCTION, _instructions),
    (ReasonCode.LEAK, _leaks),
    (ReasonCode.LANGUAGE, _languages),
)
"""All of them apply; a refusal names every fault."""
