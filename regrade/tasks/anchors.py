"""Anchors: cases whose right ordering is known, made by damaging trusted originals or labelled by a user. Pure.

An original or a labelled pair is either for the proposers to look at or for the gate to measure on, never both.
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

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_VISIBLE_SHARE = 0.4
_KEYWORDS = 40
_SHORTEST_KEYWORD = 5
_VERSION_DIGITS = 12
_CHANGED = 0.1
_MOVED = 0.3
LABELLED = "labelled"
"""The kind of a case that a user put below its original."""


class AnchorCase(NamedTuple):
    """A completion for a prompt: an original (`kind` is "original"), a damaged twin, or an attacked one.

    `original` is the index of the original it was made from.
    """

    original: int
    kind: str
    prompt: str
    completion: str
    reference: str | None = None

    def item(self, index: int) -> ScoreItem:
        """As `/score` takes it."""
        return ScoreItem(id=f"anchor-{index}", prompt=self.prompt, completion=self.completion, reference=self.reference)


class AnchorSet(NamedTuple):
    """Originals first, then their damaged twins, then attacks. Proposers may see what is `visible`, nothing else."""

    visible: tuple[Original, ...]
    originals: tuple[AnchorCase, ...]
    damaged: tuple[AnchorCase, ...]
    attacked: tuple[AnchorCase, ...]
    visible_pairs: tuple[LabelledPair, ...] = ()
    early_originals: int = 0
    """How many of the originals, the last ones, are early completions of the policy."""

    @property
    def version(self) -> str:
        """Names what the gate measures on: figures of one version compare, those of two do not."""
        return sha256_of([list(case) for case in self.cases])[:_VERSION_DIGITS]

    @property
    def base(self) -> str:
        """Names it without early completions: decisions of one base share an error level."""
        kept = self.base_originals
        return sha256_of([list(case) for case in self.cases if case.original < kept])[:_VERSION_DIGITS]

    @property
    def base_originals(self) -> int:
        """Originals of the base: all but the early completions."""
        return len(self.originals) - self.early_originals

    @property
    def cases(self) -> tuple[AnchorCase, ...]:
        """All cases, originals first."""
        return self.originals + self.damaged + self.attacked


def first_line(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """Only the first line or sentence: what a policy that has learnt to write titles does."""
    return _first(original.completion)


def has_more_than_first_line(completion: str) -> bool:
    """Whether there is anything behind the first line or sentence. A title is no text to trust, however early."""
    return bool(completion.strip()) and _first(completion.strip()) != completion.strip()


def _first(completion: str) -> str:
    return _SENTENCE.split(completion.splitlines()[0])[0]


def cut_off(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """Broken off in the middle of a sentence."""
    tokens = original.completion.split(" ")
    at = max(1, int(len(tokens) * rng.uniform(0.55, 0.75)))
    return " ".join(tokens[:at]).rstrip(" .,;:!?\n")


def shuffled(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """Its sentences in another order."""
    sentences = _SENTENCE.split(original.completion)
    return " ".join(rng.sample(sentences, len(sentences)))


def repeated(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """Its first two sentences over and over, to about the original's length."""
    sentences = _SENTENCE.split(original.completion)
    block = " ".join(sentences[:2])
    return " ".join([block] * max(2, round(len(original.completion) / len(block))))


def other_prompt(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """A good answer to another prompt."""
    return rng.choice(others).completion


def padded(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """Drawn out to more than its length by a piece of an answer to another prompt: longer is not better."""
    return f"{original.completion} {rng.choice(others).completion}"


def keywords(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """The words that carry its meaning, as a list: what a policy writes that is paid for the topic alone."""
    found = dict.fromkeys(word for word in _WORD.findall(original.completion.lower()) if len(word) >= _SHORTEST_KEYWORD)
    return ", ".join(list(found)[:_KEYWORDS])


TRANSFORMS: dict[str, Callable[[Original, random.Random, Sequence[Original]], str]] = {
    "first_line": first_line,
    "cut_off": cut_off,
    "shuffled": shuffled,
    "repeated": repeated,
    "other_prompt": other_prompt,
    "padded": padded,
    "keywords": keywords,
}


def is_substantially_changed(text: str, twin: str) -> bool:
    """Whether a twin holds other pairs of neighbouring words, or the same words mostly elsewhere."""
    tokens, others = _WORD.findall(text.lower()), _WORD.findall(twin.lower())
    if Counter(tokens) == Counter(others):
        moved: int = sum(one != other for one, other in zip(tokens, others, strict=True))
        return moved > _MOVED * len(tokens)
    one, other = Counter(pairwise(tokens)), Counter(pairwise(others))
    changed = (one - other).total() + (other - one).total()
    return changed > _CHANGED * (one.total() + other.total())


def build_anchors(
    pack: TaskPack, max_originals: int, labelled: Sequence[LabelledPair] = (), early: Sequence[Original] = ()
) -> AnchorSet:
    """The task's anchor set: the same for every cycle, so that figures of different cycles compare.

    `early` are completions of the policy that are trusted as originals are; a twin of theirs has to be really changed.

    A transform that leaves an original as it was makes no anchor. Of a labelled pair the better one counts as an
    original with one twin, the worse one; it is neither damaged nor attacked, for nobody says it is good.
    """
    visible = tuple(o for o in pack.originals if _fraction(o.id) < _VISIBLE_SHARE)
    hidden = [o for o in pack.originals if _fraction(o.id) >= _VISIBLE_SHARE][:max_originals]
    damaged = []
    for index, original in enumerate(hidden):
        others = [other for other in hidden if other.id != original.id]
        for name, transform in TRANSFORMS.items():
            rng = random.Random(f"{original.id}:{name}")  # noqa: S311 - a fixed choice, not a secret
            twin = transform(original, rng, others)
            if twin.strip() != original.completion.strip():
                damaged.append(AnchorCase(index, name, original.prompt, twin, original.reference))
    attacked = [
        AnchorCase(n % len(hidden), attack.family, hidden[n % len(hidden)].prompt,
             attack.applied_to(hidden[n % len(hidden)].completion), hidden[n % len(hidden)].reference)
        for n, attack in enumerate(pack.attacks)
    ]  # fmt: skip
    originals = [AnchorCase(i, "original", o.prompt, o.completion, o.reference) for i, o in enumerate(hidden)]
    kept = sorted(labelled, key=lambda pair: pair.identity)
    for index, pair in enumerate((p for p in kept if _fraction(p.identity) >= _VISIBLE_SHARE), len(hidden)):
        originals.append(AnchorCase(index, "original", pair.prompt, pair.better, pair.reference))
        damaged.append(AnchorCase(index, LABELLED, pair.prompt, pair.worse, pair.reference))
    for index, original in enumerate(early, len(originals)):
        originals.append(AnchorCase(index, "original", original.prompt, original.completion, original.reference))
        damaged += _damaged_early(index, original, [other for other in hidden if other.prompt != original.prompt])
    shown = tuple(pair for pair in kept if _fraction(pair.identity) < _VISIBLE_SHARE)
    return AnchorSet(visible, tuple(originals), tuple(damaged), tuple(attacked), shown, len(early))


def _damaged_early(index: int, original: Original, others: Sequence[Original]) -> list[AnchorCase]:
    twins = {
        name: transform(original, random.Random(f"{original.id}:{name}"), others)  # noqa: S311 - a fixed choice
        for name, transform in TRANSFORMS.items()
    }
    changed = {name: twin for name, twin in twins.items() if is_substantially_changed(original.completion, twin)}
    return [AnchorCase(index, name, original.prompt, twin, original.reference) for name, twin in changed.items()]


def is_held_out(name: str) -> bool:
    """Whether a thing of that name is the gate's; else proposers may see it."""
    return _fraction(name) >= _VISIBLE_SHARE


def _fraction(name: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
