"""Lint: what a candidate may not contain, whoever wrote it. Pure.

It checks form, not merit: a rule belongs here only if no honest criterion breaks it. Whether a well-formed criterion
helps is measured by the gate.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from regrade.contracts import LlmCriterion, Reason, ReasonCode, Role, Rubric, canonical_json, unbroken
from services.kit.text.fence import neutralise, utf8
from services.kit.text.folding import compatible, folded
from services.kit.text.injection import injection_flags
from services.kit.text.language import UNKNOWN_LANGUAGE, language_of
from services.kit.text.segments import words
from services.meta_reward.gate.quotations import find_quotation

MAX_CRITERIA = 12
"""Each criterion is a judge call per completion, and a longer rubric than this is hard to review."""
MAX_BYTES = 12_000
"""About 3,000 tokens; the rubric is part of prompts of the judge and of the meta-judge."""
MAX_SHARE = 0.6
"""Largest share of the award weight for one new criterion, since a policy that exploits it would exploit all."""
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


_JOINTS = re.compile(r"(?<=\w)[-\u2010-\u2015_'\u2019*.]+(?=\w)")
"""Marks within a word, and between words that are written together."""


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
        readings = _readings(text)
        if any(_TO_THE_JUDGE.search(reading) for reading in readings):
            yield "instruction: speaks to the judge instead of describing the response"
        if flags := {flag for reading in readings for flag in injection_flags(utf8(reading))}:
            yield f"instruction: has the form of an attempt to steer the judge ({', '.join(sorted(flags))})"
        if neutralise(text).flags:
            yield "instruction: holds control tokens or hidden characters"
    for criterion in given.new_criteria:
        if any(unbroken(part) != part for part in _parts(criterion)):
            yield f"instruction: {criterion.id!r} holds a line end or a control character"


def _readings(text: str) -> set[str]:
    """The text as written, and as read past look-alikes and past marks between or within its words."""
    plain = folded(text)
    return {text, plain, _JOINTS.sub(" ", plain), _JOINTS.sub("", plain)}


def _leaks(given: LintInput) -> Iterator[str]:
    if quoted := find_quotation(given.new_texts, given.sampled):
        yield f"leak: quotes sampled text ({quoted!r})"


def _languages(given: LintInput) -> Iterator[str]:
    """A judge reads criteria best in the language of the task, and so do the people who review them."""
    if given.language == UNKNOWN_LANGUAGE:
        return
    for criterion in given.new_criteria:
        language = language_of(_text_of(criterion))
        if language not in (given.language, UNKNOWN_LANGUAGE):
            yield f"language: {criterion.id!r} is written in {language!r}, the task is in {given.language!r}"


def _scripts(given: LintInput) -> Iterator[str]:
    """A text too short to tell its language by is in another one where it is in another script."""
    active = "\n".join(map(_text_of, given.active.llm_criteria))
    if language_of(active) not in (given.language, UNKNOWN_LANGUAGE) and given.language != UNKNOWN_LANGUAGE:
        return
    known = set(_letter_scripts(active))
    for criterion in given.new_criteria if known else ():
        for part in _parts(criterion):
            scripts = _letter_scripts(part)
            if sum(script not in known for script in scripts) > len(scripts) / 2:
                yield f"language: a text of {criterion.id!r} is in another script than the rubric ({part[:40]!r})"


def _letter_scripts(text: str) -> list[str]:
    """The script of each letter, as the first word of its Unicode name: LATIN, CYRILLIC, CJK. Greek is left out."""
    names = (unicodedata.name(char, "").partition(" ")[0] for char in compatible(text) if char.isalpha())
    return [name for name in names if name != "GREEK"]


def _text_of(criterion: LlmCriterion) -> str:
    return "\n".join(_parts(criterion))


def _parts(criterion: LlmCriterion) -> tuple[str, ...]:
    return (criterion.name, criterion.description, *criterion.levels)


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
    (ReasonCode.LANGUAGE, _scripts),
)
"""All of them apply; a refusal names every fault."""
