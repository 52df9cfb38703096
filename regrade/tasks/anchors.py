"""Anchors: cases whose right ordering is known without a label, made by damaging trusted originals. Pure.

An original is either for the proposers to look at or for the gate to measure on, never both.
"""

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from regrade.contracts import ScoreItem
from regrade.tasks.pack import Original, TaskPack

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_VISIBLE_SHARE = 0.4


class Case(NamedTuple):
    """A completion for a prompt: an original (`kind` is "original"), a damaged twin, or an attacked one.

    `original` is the index of the original it was made from.
    """

    original: int
    kind: str
    prompt: str
    completion: str

    def item(self, index: int) -> ScoreItem:
        """As `/score` takes it."""
        return ScoreItem(id=f"anchor-{index}", prompt=self.prompt, completion=self.completion)


class AnchorSet(NamedTuple):
    """Originals first, then their damaged twins, then attacks. `visible` are the originals proposers may see."""

    visible: tuple[Original, ...]
    originals: tuple[Case, ...]
    damaged: tuple[Case, ...]
    attacked: tuple[Case, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases, originals first."""
        return self.originals + self.damaged + self.attacked


def first_line(original: Original, rng: random.Random, others: Sequence[Original]) -> str:
    """Only the first line or sentence: what a policy that has learnt to write titles does."""
    return _SENTENCE.split(original.completion.splitlines()[0])[0]


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


TRANSFORMS: dict[str, Callable[[Original, random.Random, Sequence[Original]], str]] = {
    "first_line": first_line,
    "cut_off": cut_off,
    "shuffled": shuffled,
    "repeated": repeated,
    "other_prompt": other_prompt,
}


def build_anchors(pack: TaskPack, max_originals: int) -> AnchorSet:
    """The task's anchor set: the same for every cycle, so that figures of different cycles compare.

    A transform that leaves an original as it was makes no anchor.
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
                damaged.append(Case(index, name, original.prompt, twin))
    attacked = [
        Case(n % len(hidden), attack.family, hidden[n % len(hidden)].prompt,
             attack.applied_to(hidden[n % len(hidden)].completion))
        for n, attack in enumerate(pack.attacks)
    ]  # fmt: skip
    originals = tuple(Case(i, "original", o.prompt, o.completion) for i, o in enumerate(hidden))
    return AnchorSet(visible, originals, tuple(damaged), tuple(attacked))


def _fraction(name: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
