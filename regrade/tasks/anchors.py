"""Anchors: pairs of completions whose right order is known, which the gate tests rubrics on. Pure.

They are made by damaging trusted originals and by inserting attacks into them, or labelled by a user. Each original and
each labelled pair is either visible to the proposers or held out for the gate, never both.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from regrade.contracts import LabelledPair, ScoreItem, sha256_of
from regrade.tasks.pack import Original, TaskPack

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts without blanks between words: there a character stands in for a word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_SENTENCE = re.compile(r"(?<=[.!?؟۔])\s+|(?<=[。！？।॥။។።])\s*(?=\S)")
_VISIBLE_SHARE = 0.4
"""Proposers need examples, and the gate needs more of them for its statistical power."""
_FEW_BLANKS = 4
"""Words to a blank above which a text is cut between characters."""
_MAX_KEYWORDS = 40
_MIN_KEYWORD_LETTERS = 5
_VERSION_DIGITS = 12
_MIN_CHANGED_SHARE = 0.1
_MIN_MOVED_SHARE = 0.3
LABELLED = "labelled"
"""The `kind` of the worse completion of a labelled pair."""


class AnchorCase(NamedTuple):
    """A completion to score: an original, or one made from the original at index `original`.

    `kind` is "original", the name of a transform, the family of an attack, or `LABELLED`.
    """

    original: int
    kind: str
    prompt: str
    completion: str
    reference: str | None = None

    def item(self, index: int) -> ScoreItem:
        """The case as an item of `/score`."""
        return ScoreItem(id=f"anchor-{index}", prompt=self.prompt, completion=self.completion, reference=self.reference)


class AnchorSet(NamedTuple):
    """The gate's cases, held out from proposers, and the originals and pairs that proposers may see."""

    visible: tuple[Original, ...]
    originals: tuple[AnchorCase, ...]
    damaged: tuple[AnchorCase, ...]
    attacked: tuple[AnchorCase, ...]
    visible_pairs: tuple[LabelledPair, ...] = ()
    early_originals: int = 0
    """Number of originals, the last ones, that are early completions of the policy."""

    @property
    def version(self) -> str:
        """Hash of the cases: figures of the same version are comparable."""
        return sha256_of([list(case) for case in self.cases])[:_VERSION_DIGITS]

    @property
    def base(self) -> str:
        """Hash of the cases without early completions: decisions on one base share an error budget."""
        count = self.base_originals
        return sha256_of([list(case) for case in self.cases if case.original < count])[:_VERSION_DIGITS]

    @property
    def base_originals(self) -> int:
        """Number of originals that are not early completions."""
        return len(self.originals) - self.early_originals

    @property
    def cases(self) -> tuple[AnchorCase, ...]:
        """All cases, originals first."""
        return self.originals + self.damaged + self.attacked


def has_more_than_first_line(completion: str) -> bool:
    """Whether anything follows the first line or sentence; a title alone is not a text to trust."""
    return bool(completion.strip()) and _first_sentence(completion.strip()) != completion.strip()


def _first_sentence(completion: str) -> str:
    return _SENTENCE.split(completion.splitlines()[0])[0]


def first_line(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """The first line or sentence alone: a policy that has learned to write titles."""
    return _first_sentence(original.completion)


def cut_off(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """The beginning, up to the middle of a sentence."""
    tokens, blank = original.completion.split(" "), " "
    if len(_WORD.findall(original.completion)) > _FEW_BLANKS * len(tokens):
        tokens, blank = list(original.completion), ""
    end = max(1, int(len(tokens) * rng.uniform(0.55, 0.75)))
    return blank.join(tokens[:end]).rstrip(" .,;:!?\n。，、；：！？।")


def shuffled(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """The sentences in random order."""
    sentences = _SENTENCE.split(original.completion)
    return " ".join(rng.sample(sentences, len(sentences)))


def repeated(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """The first two sentences repeated up to about the original's length."""
    sentences = _SENTENCE.split(original.completion)
    block = " ".join(sentences[:2])
    return " ".join([block] * max(2, round(len(original.completion) / len(block))))


def other_prompt(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """A good answer to another prompt."""
    return rng.choice(others).completion


def padded(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """The original followed by an answer to another prompt: longer is not better."""
    return f"{original.completion} {rng.choice(others).completion}"


def keywords(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """A list of the original's long words: a policy that is rewarded for the topic alone."""
    words = _WORD.findall(original.completion.lower())
    unique = dict.fromkeys(word for word in words if len(word) >= _MIN_KEYWORD_LETTERS)
    return ", ".join(list(unique)[:_MAX_KEYWORDS])


Transform = Callable[[Original, random.Random, Sequence[Original]], str]

TRANSFORMS: dict[str, Transform] = {
    transform.__name__: transform
    for transform in (first_line, cut_off, shuffled, repeated, other_prompt, padded, keywords)
}
"""Ways to damage a completion, by name; the names are part of the gate's reports."""
_NEED_OTHERS = ("other_prompt", "padded")


def is_substantially_changed(text: str, damaged: str) -> bool:
    """Whether a tenth of the neighbouring word pairs differ, or, with equal words, three tenths of them have moved."""
    tokens, others = _WORD.findall(text.lower()), _WORD.findall(damaged.lower())
    if Counter(tokens) == Counter(others):
        moved: int = sum(token != other for token, other in zip(tokens, others, strict=True))
        return moved > _MIN_MOVED_SHARE * len(tokens)
    before, after = Counter(pairwise(tokens)), Counter(pairwise(others))
    changed = (before - after).total() + (after - before).total()
    return changed > _MIN_CHANGED_SHARE * (before.total() + after.total())


def _differs(text: str, damaged: str) -> bool:
    return text.strip() != damaged.strip()


def build_anchors(
    pack: TaskPack, max_originals: int, labelled: Sequence[LabelledPair] = (), early_originals: Sequence[Original] = ()
) -> AnchorSet:
    """The task's anchor set. Equal arguments give equal sets, so figures of different cycles are comparable.

    `early_originals` are early completions of the policy, trusted like originals. A transform must change them
    substantially to make a case, and other originals at all. The better completion of a labelled pair counts as an
    original whose only damaged copy is the worse one; since nobody calls it good, it is neither transformed nor
    attacked.
    """
    held_out = [original for original in pack.originals if is_held_out(original.id)][:max_originals]
    originals = [_original_case(index, original) for index, original in enumerate(held_out)]
    damaged: list[AnchorCase] = []
    for index, original in enumerate(held_out):
        damaged += _damaged(index, original, [other for other in held_out if other.id != original.id], _differs)
    attacked = []
    for number, attack in enumerate(pack.attacks if originals else ()):
        target = originals[number % len(originals)]
        attacked.append(target._replace(kind=attack.family, completion=attack.applied_to(target.completion)))
    pairs = sorted(labelled, key=lambda pair: pair.identity)
    for pair in (pair for pair in pairs if is_held_out(pair.identity)):
        index = len(originals)
        originals.append(AnchorCase(index, "original", pair.prompt, pair.better, pair.reference))
        damaged.append(AnchorCase(index, LABELLED, pair.prompt, pair.worse, pair.reference))
    for index, original in enumerate(early_originals, len(originals)):
        originals.append(_original_case(index, original))
        others = [other for other in held_out if other.prompt != original.prompt]
        damaged += _damaged(index, original, others, is_substantially_changed)
    return AnchorSet(
        visible=tuple(original for original in pack.originals if not is_held_out(original.id)),
        originals=tuple(originals),
        damaged=tuple(damaged),
        attacked=tuple(attacked),
        visible_pairs=tuple(pair for pair in pairs if not is_held_out(pair.identity)),
        early_originals=len(early_originals),
    )


def _original_case(index: int, original: Original) -> AnchorCase:
    return AnchorCase(index, "original", original.prompt, original.completion, original.reference)


def _damaged(
    index: int, original: Original, others: Sequence[Original], is_changed: Callable[[str, str], bool]
) -> list[AnchorCase]:
    case, cases = _original_case(index, original), []
    for name, transform in TRANSFORMS.items():
        if name in _NEED_OTHERS and not others:
            continue
        rng = random.Random(f"{original.id}:{name}")  # noqa: S311 - a fixed choice, not a secret
        completion = transform(original, rng, others)
        if is_changed(original.completion, completion):
            cases.append(case._replace(kind=name, completion=completion))
    return cases


def is_held_out(identity: str) -> bool:
    """Whether the original, pair or trace with this id is held out for the gate; a fixed pseudo-random choice."""
    fraction = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4]) / 2**32
    return fraction >= _VISIBLE_SHARE
