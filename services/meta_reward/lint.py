"""Lint: what a candidate may not contain, whoever wrote it. Pure; every refusal has its reason."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from regrade.contracts import LlmCriterion, Rubric, canonical_json
from services.kit.fence import neutralise
from services.kit.text import words

MAX_CRITERIA = 12
MAX_BYTES = 12_000
_LEAK_NGRAM = 7
_OVERLAP = 0.8

_TO_THE_JUDGE = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:rubric|criteri|instruction|above|previous|prompt)"
    r"|\b(?:always|must|should)\b.{0,20}\b(?:give|award|assign|score|return|answer|output)\b"
    r"|\b(?:give|award|assign|return|output)\b.{0,30}\b(?:a |the )?(?:full|maximum|top|highest|perfect|5|five)\b"
    r"|\b(?:system prompt|as an ai|you are now|begin response|end response)\b",
    re.IGNORECASE | re.DOTALL,
)


def lint(candidate: Rubric, active: Rubric, sampled: Iterable[str], rolled_back: Mapping[str, str]) -> list[str]:
    """Why a candidate is refused; empty when it may go to the gate.

    `sampled` are the texts proposers saw, `rolled_back` the reason by digest of what was active and had to go.
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
    known = {c.id for c in active.criteria if c in candidate.criteria}
    new = [c for c in candidate.llm_criteria if c.id not in known]
    for criterion in new:
        reasons.extend(_about_levels(criterion))
    texts = [_text_of(criterion) for criterion in new] + [candidate.preamble] * (candidate.preamble != active.preamble)
    reasons.extend(_instructions(texts))
    reasons.extend(_leaks(texts, sampled))
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
        a, b = set(words(one.description)), set(words(other.description))
        if a and b and len(a & b) / len(a | b) >= _OVERLAP:
            reasons.append(f"overlap: {one.id!r} and {other.id!r} say the same")
    return reasons


def _about_levels(criterion: LlmCriterion) -> list[str]:
    levels = [" ".join(words(level)) for level in criterion.levels]
    if len(set(levels)) < len(levels):
        return [f"levels: two levels of {criterion.id!r} say the same"]
    amounts = [int(found.group()) for level in levels if (found := re.search(r"\d+", level))]
    if len(amounts) == len(levels) and amounts != sorted(amounts):
        return [f"levels: the amounts in {criterion.id!r} do not rise"]
    return []


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


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    tokens = words(text)
    return (tuple(tokens[i : i + _LEAK_NGRAM]) for i in range(len(tokens) - _LEAK_NGRAM + 1))
