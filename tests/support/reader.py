"""A scripted judge that reads: what it answers is one function of the rubric's words, the task and the response.

It stands in for a competent but literal model. It looks for the aspect of writing that a criterion's words
name, measures that in the response, and takes the level whose text fits. It has a real judge's weaknesses:
asked for quality in general it is content with anything fluent and moved by a plea, it obeys a rubric that
orders it about, and it guesses where it does not understand. It knows nothing of who wrote the rubric, nor
whether a response is an anchor.
"""

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple

from services.kit.text import features, segments
from tests.support.fake_engine import Messages, Reply, distribution

_TOP = 5
_GULLIBLE = 0.15
_BLOCK = re.compile(r"Criterion: (.+)\n(.+)\n((?:[0-5]: .+\n?){6})")
_FENCED = re.compile(r"\[BEGIN (TASK|RESPONSE) \w+\]\n(.*?)\n\[END \1 \w+\]", re.DOTALL)
_LENGTH = re.compile(r"about (\d+) words")
_ORDERS = re.compile(
    r"\b(?:always|must|should)\b.{0,20}\b(?:give|award|score)|\bfull marks\b|\bignore\b|\btop (?:mark|score)",
    re.IGNORECASE,
)
_PLEA = re.compile(
    r"\b(?:score|grader|judge|grading|evaluator|examiner|rubric|marks|graded|submission|evaluation)\b", re.IGNORECASE
)
_DENIED = re.compile(r"\b(?:no|not|none|nothing|never|without|free of|avoids?|lacks?|hardly)\b|n't\b", re.IGNORECASE)
_CONNECTIVE = re.compile(r"^(?:they|it|this|that|these|yet|but|still|also|then|such|when|once|others?|in the end)\b")


class Read(NamedTuple):
    """A response and what was asked for."""

    task: str
    response: str

    @property
    def words(self) -> list[str]:
        """Of the response."""
        return segments.words(self.response)

    @property
    def wanted(self) -> int:
        """How many words the task asks for."""
        length = _LENGTH.search(self.task)
        return int(length.group(1)) if length else 100


class Aspect(NamedTuple):
    """Something to measure: the words that name it, those that name its opposite, and how much of it there is."""

    wanted: str
    fault: str
    degree: Callable[[Read], float]


def _full(read: Read) -> float:
    return min(1.0, len(read.words) / (0.7 * read.wanted))


def _brief(read: Read) -> float:
    return 1.0 - min(1.0, len(read.words) / (1.5 * read.wanted))


def _fresh(read: Read) -> float:
    return _clip(2.0 * features.distinct_share(read.words, 4) - 1.0)


def _relevant(read: Read) -> float:
    return _clip(features.topic_overlap(read.words, segments.words(read.task)) / 0.3)


def _ordered(read: Read) -> float:
    """Prose in sentences, in paragraphs, with an opening that refers to nothing before it."""
    if segments.sentence_count(read.response) < 3:
        return 0.0
    opens = 0.0 if _CONNECTIVE.match(read.response.lower()) else 0.5
    return opens + (0.5 if "\n\n" in read.response else 0.0)


def _supported(read: Read) -> float:
    """Developed in full sentences that say something each."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", read.response) if len(s.split()) >= 8 and s[-1] in ".!?"]
    return min(1.0, len(set(sentences)) / 4)


def _pleading(read: Read) -> float:
    return 1.0 if len(_PLEA.findall(read.response)) >= 2 or read.response.rstrip().endswith("5") else 0.0


def _titled(read: Read) -> float:
    return 1.0 if len(read.words) <= 12 else 0.0


def _copied(read: Read) -> float:
    return features.copied_share(read.words, segments.words(read.task))


def _listed(read: Read) -> float:
    return _clip(read.response.count(",") / max(1, len(read.words)) * 2)


_ASPECTS = (
    Aspect(r"develop|length|thorough|fully worked|as long as", r"scant|too short", _full),
    Aspect(r"\bbrief|\bbrevity|concise|\bshort\b|few words", r"long-winded|wordy", _brief),
    Aspect(r"varied|says? something new", r"repe(?:at|tit)|padding|padded|circles", _fresh),
    Aspect(r"relevan|the prompt|the question|subject|on topic", r"off topic|drift|another subject", _relevant),
    Aspect(r"order|structure|organi|paragraph|flow|builds on", r"jumbled|disjointed", _ordered),
    Aspect(r"support|detail|example|evidence|reasons", r"generalit|unsupported|bare claim", _supported),
    Aspect(r"plea|flatter|begs|talks about its own (?:score|mark)", r"\0", _pleading),
    Aspect(r"\btitle|heading", r"\0", _titled),
    Aspect(r"quotes the (?:task|prompt)|restat", r"\0", _copied),
    Aspect(r"finish|complete|ending|conclusion", r"break(?:s|ing)? off|cut off", lambda r: float(_ends(r))),
    Aspect(r"keyword|many terms", r"\0", _listed),
)


def reading_judge(messages: Messages) -> Reply:
    """The level of the criterion that the last turn asks for, as a distribution."""
    fenced = dict(_FENCED.findall(messages[1]["content"]))
    read = Read(fenced["TASK"], fenced["RESPONSE"])
    criterion = messages[-1]["content"].rpartition("Criterion: ")[2].splitlines()[0]
    for name, description, listed in _BLOCK.findall(messages[0]["content"] + "\n"):
        if name == criterion:
            levels = [line[3:] for line in listed.strip().splitlines()]
            return _between(_TOP * _clip(_fit(f"{name}: {description}", levels, read)))
    return _between(_TOP / 2)


def _fit(words: str, levels: list[str], read: Read) -> float:
    if _ORDERS.search(f"{words} {levels[-1]}"):
        return 1.0
    if re.search(r"how good is|overall quality", words, re.IGNORECASE):
        fluent = 0.6 if len(read.words) >= 2 else 0.0
        return fluent + 0.1 * _relevant(read) + _GULLIBLE * _pleading(read)
    degrees = [degree for aspect in _ASPECTS if (degree := _degree(aspect, words, read)) is not None]
    if not degrees or len(set(levels)) < len(levels):
        seed = hashlib.sha256(f"{words}{read.response}".encode()).digest()
        return 0.3 + 0.4 * seed[0] / 255
    degree = sum(degrees) / len(degrees)
    inverted = _DENIED.search(levels[-1]) and not _DENIED.search(levels[0]) and not _DENIED.search(words)
    return 1.0 - degree if inverted else degree


def _degree(aspect: Aspect, words: str, read: Read) -> float | None:
    """How far the response is what the words describe; None where they do not speak of this aspect."""
    named = re.search(aspect.wanted, words, re.IGNORECASE)
    opposite = re.search(aspect.fault, words, re.IGNORECASE)
    match = opposite or named
    if match is None:
        return None
    turned = opposite is not None
    if _DENIED.search(words[max(0, match.start() - 30) : match.start()]):
        turned = not turned
    degree = aspect.degree(read)
    return 1.0 - degree if turned else degree


def _between(level: float) -> Reply:
    """All mass on the two levels next to it, so that the expected level is this one."""
    below = min(_TOP - 1, int(level))
    return distribution([max(0.0, 1.0 - abs(n - level)) if n in (below, below + 1) else 0.0 for n in range(_TOP + 1)])


def _ends(read: Read) -> bool:
    return segments.ends_properly(read.response) and segments.sentence_count(read.response) >= 2


def _clip(value: float) -> float:
    return max(0.0, min(1.0, value))
