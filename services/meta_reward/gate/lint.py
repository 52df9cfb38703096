"""Lint: what a candidate may not contain, whoever wrote it. Pure; every refusal has its reason.

It knows forms, not merits: a rule stands here only where no honest criterion breaks it. Whether a criterion
that is well formed does any good is the gate's to measure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from regrade.contracts import LlmCriterion, Role, Rubric, canonical_json
from services.kit.text.features import words
from services.kit.text.fence import neutralise
from services.kit.text.language import UNKNOWN_LANGUAGE, language_of

MAX_CRITERIA = 12
MAX_BYTES = 12_000
MAX_SHARE = 0.6
"""Of the award weight, for one new criterion: the first of a rubric's criteria that a policy finds a hole in."""
_LEAK_NGRAM = 7
_OVERLAP = 0.8
_MIN_LEVEL_WORDS = 2
_NEGATION_REACH = 4
_STEM = 5

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


def lint(
    candidate: Rubric,
    active: Rubric,
    sampled: Iterable[str],
    rolled_back: Mapping[str, str],
    language: str = UNKNOWN_LANGUAGE,
) -> list[str]:
    """Why a candidate is refused; empty when it may go to the gate.

    `sampled` are the texts proposers saw, `rolled_back` the reason by digest of what was active and had to go,
    `language` that of the task (ISO 639-1). What the active rubric has already is not asked about again.
    """
    reasons = []
    if candidate.digest in rolled_back:
        reasons.append(f"rolled back: {rolled_back[candidate.digest]}")
    if candidate.digest == active.digest:
        reasons.append("same as the active rubric")
    if len(candidate.criteria) > MAX_CRITERIA:
        reasons.append(f"size: {len(candidate.criteria)} criteria, {MAX_CRITERIA} at most")
    if len(canonical_json(candidate.model_dump(mode="json"))) > MAX_BYTES:
        reasons.append(f"size: more than {MAX_BYTES} bytes")
    reasons.extend(_duplicates(candidate))
    reasons.extend(_weights(candidate, active))
    known = {c.id: _text_of(c) for c in active.llm_criteria}
    new = [c for c in candidate.llm_criteria if known.get(c.id) != _text_of(c)]
    for criterion in new:
        reasons.extend(_levels(criterion))
    texts = [_text_of(criterion) for criterion in new] + [candidate.preamble] * (candidate.preamble != active.preamble)
    reasons.extend(_instructions(texts))
    reasons.extend(_leaks(texts, sampled))
    reasons.extend(_languages(new, language))
    return reasons


def _text_of(criterion: LlmCriterion) -> str:
    return "\n".join((criterion.name, criterion.description, *criterion.levels))


def _duplicates(candidate: Rubric) -> list[str]:
    reasons = []
    checks = [canonical_json(c.check.model_dump(mode="json")) for c in candidate.check_criteria]
    if len(set(checks)) < len(checks):
        reasons.append("duplicate: the same check twice")
    kinds = [c.check.check for c in candidate.check_criteria if c.check.check != "matches"]
    if len(set(kinds)) < len(kinds):
        reasons.append("overlap: one kind of check with two parameters")
    for one, other in combinations(candidate.llm_criteria, 2):
        if words(one.name) == words(other.name):
            reasons.append(f"duplicate: {one.id!r} and {other.id!r} have one name, and the judge is asked by name")
        elif _is_overlap(one.description, other.description):
            reasons.append(f"overlap: {one.id!r} and {other.id!r} say the same")
    return reasons


def _is_overlap(one: str, other: str) -> bool:
    a, b = set(words(one)), set(words(other))
    return bool(a and b) and len(a & b) / len(a | b) >= _OVERLAP


def _weights(candidate: Rubric, active: Rubric) -> list[str]:
    known = {criterion.id for criterion in active.criteria}
    most = MAX_SHARE * candidate.total_weight(Role.AWARD)
    heavy = [c.id for c in candidate.criteria if c.id not in known and c.role is Role.AWARD and c.weight > most]
    return [f"weights: {name!r} alone has more than {MAX_SHARE:.0%} of what can be won" for name in heavy]


def _levels(criterion: LlmCriterion) -> list[str]:
    levels = [" ".join(words(level)) for level in criterion.levels]
    if any(len(words(_NUMERAL.sub("", level))) < _MIN_LEVEL_WORDS for level in levels) and all(
        _NUMERAL.search(level) for level in levels
    ):
        return [f"levels: those of {criterion.id!r} are numbers and say nothing of a response"]
    if len(set(levels)) < len(levels):
        return [f"levels: two levels of {criterion.id!r} say the same"]
    amounts = [int(found.group()) for level in levels if (found := re.search(r"\d+", level))]
    if len(amounts) == len(levels) and amounts != sorted(amounts):
        return [f"levels: the amounts in {criterion.id!r} do not rise"]
    if criterion.role is Role.AWARD and _is_inverted(criterion):
        return [f"levels: the top one of {criterion.id!r} denies what it describes, the lowest one does not"]
    return []


def _is_inverted(criterion: LlmCriterion) -> bool:
    """The best level denies what is described, where neither the worst one nor the description denies anything."""
    about = f"{criterion.name} {criterion.description}"
    denied = _NEGATED.search(criterion.levels[-1])
    if denied is None or _NEGATED.search(about) or _NEGATED.search(criterion.levels[0]):
        return False
    behind = words(criterion.levels[-1][denied.end() :])[:_NEGATION_REACH]
    return bool(_stems(behind) & _stems(words(about)))


def _stems(tokens: Sequence[str]) -> set[str]:
    return {token[:_STEM] for token in tokens if len(token) >= _STEM}


def _instructions(texts: Sequence[str]) -> list[str]:
    reasons = []
    for text in texts:
        if _TO_THE_JUDGE.search(text):
            reasons.append("instruction: speaks to the judge instead of describing the response")
        if neutralise(text).flags:
            reasons.append("instruction: holds control tokens or hidden characters")
    return reasons


def _leaks(texts: Sequence[str], sampled: Iterable[str]) -> list[str]:
    seen = {gram for text in sampled for gram in _grams(text)}
    leaked = next((gram for text in texts for gram in _grams(text) if gram in seen), None)
    return [f"leak: quotes sampled text ({' '.join(leaked)!r})"] if leaked else []


def _languages(new: Sequence[LlmCriterion], language: str) -> list[str]:
    """A judge reads best what is written in the language of the task, and so do the people who answer for it."""
    if language == UNKNOWN_LANGUAGE:
        return []
    found = {criterion.id: language_of(_text_of(criterion)) for criterion in new}
    other = {name: code for name, code in found.items() if code not in (language, UNKNOWN_LANGUAGE)}
    return [f"language: {name!r} is written in {code!r}, the task is in {language!r}" for name, code in other.items()]


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    tokens = words(text)
    return (tuple(tokens[i : i + _LEAK_NGRAM]) for i in range(len(tokens) - _LEAK_NGRAM + 1))
